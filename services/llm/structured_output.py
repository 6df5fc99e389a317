"""Answers that fit a schema: the schema as the wire takes it, and what reads the answer back."""

import copy
import re
import unicodedata
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import (
    convert_to_json_schema,
    convert_to_openai_function,
    convert_to_openai_tool,
)
from pydantic import BaseModel

MAX_NAME_CHARS = 64
NAMELESS = "answer"
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}

Schema = dict[str, Any] | type
Parser = Runnable[AIMessage, dict[str, Any] | BaseModel]


def response_format(schema: Schema, *, strict: bool | None) -> dict[str, Any]:
    """OpenAI's `response_format` for a schema. With `strict` the model is held to every word of it."""
    schema = _with_parameters(_titled(schema), strict=strict)
    if isinstance(schema, dict) and "function" in schema:
        schema = convert_to_json_schema(schema)  # LangChain makes no schema strict that comes in OpenAI's form.
    json_schema = convert_to_json_schema(schema, strict=strict)
    described: dict[str, Any] = {"name": legal_name(json_schema.get("title")), "schema": json_schema}
    if strict is not None:
        described["strict"] = strict
    return {"type": "json_schema", "json_schema": described}


def text_parser(schema: Schema) -> Parser:
    """Reads an answer that came as text."""
    made_by: Any = partial(PydanticOutputParser, pydantic_object=schema) if _is_pydantic(schema) else JsonOutputParser
    return cast("Parser", made_by())


def answer_tool(schema: Schema, *, strict: bool | None) -> dict[str, Any]:
    """The tool that a model answers by calling, its arguments being the answer."""
    return formatted_tool(_titled(schema), strict=strict)


def formatted_tool(tool: Any, *, strict: bool | None) -> dict[str, Any]:
    """A tool as the wire takes it. A schema in its place gets a legal name; a tool keeps the one it is called by."""
    tool = _with_parameters(tool, strict=strict)
    formatted = convert_to_openai_tool(tool, strict=strict)
    if isinstance(tool, dict) and isinstance(function := tool.get("function"), dict) and "strict" not in function:
        # One in OpenAI's form LangChain leaves as it is.
        strict_function = convert_to_openai_function(copy.deepcopy(function), strict=strict)
        formatted = {**tool, "function": {**function, **strict_function}}
    if isinstance(tool, BaseTool) or "function" not in formatted:
        return formatted
    function = formatted["function"]
    return {**formatted, "function": {**function, "name": legal_name(function["name"])}}


def tool_parser(schema: Schema, tool: Mapping[str, Any]) -> Parser:
    """Reads an answer that came as a call of `tool`; `None` where the model made none."""
    parser: Any = JsonOutputKeyToolsParser(key_name=tool["function"]["name"], first_tool_only=True)
    if _is_pydantic(schema):
        model: Any = schema
        parser |= RunnableLambda(lambda found: None if found is None else model.model_validate(found))
    return cast("Parser", parser)


def legal_name(title: str | None) -> str:
    """A title as OpenAI takes names: letters, digits, `_` and `-`, at most 64 of them."""
    plain = unicodedata.normalize("NFKD", title or "").encode("ascii", "ignore").decode()
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", plain).strip("_")[:MAX_NAME_CHARS] or NAMELESS


def _titled(schema: Schema) -> Schema:
    """A schema that LangChain can name, its own to change."""
    if not isinstance(schema, dict):
        return schema
    copied = copy.deepcopy(schema)
    return (
        copied if copied.get("title") or copied.get("name") or "function" in copied else {**copied, "title": NAMELESS}
    )


def _with_parameters(tool: Any, *, strict: bool | None) -> Any:
    """The tool with the empty parameters that one without any stands for: LangChain makes none strict that has none."""
    match tool:
        case _ if not strict:
            return tool
        case {"function": {"name": _} as function} if "parameters" not in function:
            return {**tool, "function": {**function, "parameters": dict(NO_PARAMETERS)}}
        case {"name": _} if not tool.keys() & {"parameters", "input_schema", "toolSpec"}:
            return {**tool, "parameters": dict(NO_PARAMETERS)}
        case {"title": _} if not tool.keys() & {"name", "properties"}:
            return {**tool, **NO_PARAMETERS}
        case _:
            return tool


def _is_pydantic(schema: Schema) -> bool:
    return isinstance(schema, type) and issubclass(schema, BaseModel)
