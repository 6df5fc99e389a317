"""The messages of an exchange, as callers send them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["user", "assistant", "system", "developer", "tool"]
Content = str | Sequence[Mapping[str, Any]]
"""Text, or parts of OpenAI's shapes: text, image_url."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. `more` holds what some roles add: `name`, `tool_calls`, `tool_call_id`."""

    role: Role
    content: Content
    more: Mapping[str, Any] = field(default_factory=dict)
