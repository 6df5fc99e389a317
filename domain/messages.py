"""The messages of an exchange, as callers send them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["user", "assistant", "system", "developer", "tool"]
Content = str | Sequence[Mapping[str, Any]]
"""Text, or parts of OpenAI's shapes: text, image_url."""

VENDOR_FIELDS = "vendor_fields"
"""Where a message keeps the fields that are in no specification of ours, by their name on the wire."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. `more`: what some roles add (`name`, `tool_calls`, …), and `vendor_fields`."""

    role: Role
    content: Content
    more: Mapping[str, Any] = field(default_factory=dict)
