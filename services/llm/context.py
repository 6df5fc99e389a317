"""Which messages fit a model's context."""

from collections.abc import Sequence

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from domain.errors import ContextOverflow
from services.llm.providers.provider import text_in

CHARS_PER_TOKEN = 3
"""A cautious estimate: French runs to about 3.5 characters a token with the models we serve."""

TOKENS_PER_MESSAGE = 8
"""Role marks and separators of a chat template, rounded up."""

ANSWER_SHARE = 4
"""A quarter of the context is kept for the answer when the caller sets no `max_tokens`; never more than half."""


def trim_messages(
    messages: Sequence[BaseMessage], *, context_tokens: int, max_tokens: int | None, model: str
) -> list[BaseMessage]:
    """System messages, and the newest of the rest that fit beside the answer; the kept part starts with the user.

    Raises `ContextOverflow` when the system messages and the last turn alone do not fit.
    """
    answer = min(max_tokens or context_tokens // ANSWER_SHARE, context_tokens // 2)
    room = context_tokens - answer
    system = [message for message in messages if isinstance(message, SystemMessage)]
    rest = [message for message in messages if not isinstance(message, SystemMessage)]
    # The last turn stands whole: a tool's answer means nothing without the call, nor the call without the question.
    turn = next((i for i in range(len(rest) - 1, -1, -1) if isinstance(rest[i], HumanMessage)), max(len(rest) - 1, 0))
    must_fit = sum(map(estimated_tokens, [*system, *rest[turn:]]))
    if must_fit > room:
        raise ContextOverflow(
            f"the message needs about {must_fit} tokens and {model!r} has room for {room} "
            f"({context_tokens} less {answer} for the answer): shorten it or name a model with a larger context"
        )
    left = room - must_fit
    start = turn
    while start > 0 and (cost := estimated_tokens(rest[start - 1])) <= left:
        left -= cost
        start -= 1
    if start > 0:
        # Part of the conversation fell away: do not begin with an answer to a question that is gone.
        start = next((i for i in range(start, turn) if isinstance(rest[i], HumanMessage)), turn)
    return [*system, *rest[start:]]


def estimated_tokens(message: BaseMessage) -> int:
    """About how many tokens a message takes; more rather than fewer."""
    return len(text_in(message)) // CHARS_PER_TOKEN + TOKENS_PER_MESSAGE
