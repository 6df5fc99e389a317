"""Answers in a schema's shape, for steps that a small model takes as well as a large one."""

from typing import Any

from langchain_core.messages import BaseMessage
from pydantic import BaseModel

MAX_TOKENS = 400
"""A small model may not know when to stop, even within a schema; one that reasons needs more before it begins."""


async def filled(llm: Any, schema: type[BaseModel], messages: list[BaseMessage], **options: Any) -> Any:
    """The model's answer as this schema; `None` when it does not fit. `options` pin a model, say."""
    limit = {} if reasons(llm) else {"max_tokens": MAX_TOKENS}
    model = llm.with_structured_output(schema, temperature=0, **limit, **options)
    try:
        return await model.ainvoke(messages)
    except ValueError:
        # LangChain's own error for JSON that was cut or does not fit is one.
        return None


def is_large(llm: Any) -> bool:
    """Models that call tools or reason read long prompts fast and well."""
    return calls_tools(llm) or reasons(llm)


def calls_tools(llm: Any) -> bool:
    """Whether the model calls tools itself. Not all large ones do: some only without their reasoning."""
    return bool(llm.supports("tools"))


def reasons(llm: Any) -> bool:
    """Whether the model thinks before it answers: those take no temperature."""
    return not llm.supports("temperature")
