"""Where a vendor that speaks OpenAI's format departs from it: a row of facts that the wire reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from domain.errors import RouteurError

RefusalIn = Callable[[Any, int], RouteurError | None]
"""Reads an object, and the HTTP status it came under, as the refusal that it is; `None` when it is none."""


@dataclass(frozen=True, slots=True)
class Quirks:
    """The defaults are OpenAI's own ways."""

    takes_stream_options: bool = True
    """Where not, usage comes unasked."""
    gives_finish_reason: bool = True
    """Where not, `[DONE]`, or a whole body with a choice, ends an answer; its provider says why it ended."""
    refuses_unknown_fields: bool = False
    """Whether a message may hold nothing but what OpenAI knows: no reasoning, no field of another vendor's."""
    refusal_in: RefusalIn | None = None
    """For codes of the vendor's own, and for errors under status 200. Bound to the call: who asked, and for what."""


AS_OPENAI = Quirks()
