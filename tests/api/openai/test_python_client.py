"""The official Python client: what its users do, against our server."""

import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from tests.provider_thread import play
from tests.scripted_provider import Cut, ScriptedProvider, Status, Wait, call_tool, finish, say

USER: Any = {"role": "user", "content": "Raconte."}
LOCAL_EMBEDDINGS = "use-multilingual-v3"


class Step(BaseModel):
    explanation: str
    output: float


class weather(BaseModel):  # noqa: N801 - the tool's name is the class's
    """The weather of a city."""

    city: str


def impact_of(answer: Any) -> dict[str, Any]:
    """Official clients expose fields that they do not know."""
    return dict((answer.model_extra or {})["impact"])


def test_a_whole_answer(python: openai.OpenAI, provider: ScriptedProvider) -> None:
    play(provider, [*say("Il", " était"), *finish(25, 2)])
    answer = python.chat.completions.create(model="gpt-4o", messages=[USER])
    assert answer.choices[0].message.content == "Il était"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 27
    assert impact_of(answer)["cost_eur"] > 0
    assert answer._request_id == impact_of(answer)["request_id"]
    ChatCompletion.model_validate(answer.model_dump())


def test_a_stream_with_usage(python: openai.OpenAI, provider: ScriptedProvider) -> None:
    play(provider, [*say("Il", " était"), *finish(25, 2)])
    with python.chat.completions.create(
        model="V2", messages=[USER], stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Il était"
    assert [c.usage.total_tokens for c in chunks if c.usage] == [27]
    assert impact_of(chunks[-1])["agent"] == "V2"


async def test_the_asynchronous_client(python_async: openai.AsyncOpenAI, provider: ScriptedProvider) -> None:
    play(provider, [*say("Oui"), *finish()], [*say("Il", " était"), *finish()])
    whole = await python_async.chat.completions.create(model="gpt-4o", messages=[USER], n=1)
    assert whole.choices[0].message.content == "Oui"
    text = ""
    async with await python_async.chat.completions.create(model="gpt-4o", messages=[USER], stream=True) as stream:
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert text == "Il était"


def test_the_stream_helper(python: openai.OpenAI, provider: ScriptedProvider) -> None:
    play(provider, [*say("Il", " était"), *finish(25, 2)])
    with python.chat.completions.stream(
        model="gpt-4o", messages=[USER], stream_options={"include_usage": True}
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("content.delta") == 3  # The first one, with the role, says nothing.
    assert "content.done" in kinds
    assert final.choices[0].message.content == "Il était"
    assert final.usage is not None
    assert final.usage.completion_tokens == 2


def test_structured_output_is_parsed(python: openai.OpenAI, provider: ScriptedProvider) -> None:
    text = '{"explanation": "halve it", "output": -3.75}'
    play(provider, [*say(text), *finish()], [*say(text[:9], text[9:]), *finish()])
    parsed = python.chat.completions.parse(model="gpt-4o", messages=[USER], response_format=Step)
    assert parsed.choices[0].message.parsed == Step(explanation="halve it", output=-3.75)
    with python.chat.completions.stream(model="gpt-4o", messages=[USER], response_format=Step) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.parsed == Step(explanation="halve it", output=-3.75)
    assert provider.requests[0]["response_format"]["json_schema"]["schema"]["required"] == ["explanation", "output"]


def test_a_tool_loop(python: openai.OpenAI, provider: ScriptedProvider) -> None:
    play(provider, [*call_tool("weather", '{"city":', '"Oslo"}'), *finish(reason="tool_calls")])
    play(provider, [*say("Il fait 4 °C."), *finish()])
    messages = [USER]
    tools: Any = [openai.pydantic_function_tool(weather)]
    first = python.chat.completions.create(model="gpt-4o", messages=messages, tools=tools).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    messages += [first.message, {"role": "tool", "tool_call_id": call.id, "content": "4 °C"}]
    second = python.chat.completions.create(model="gpt-4o", messages=messages, tools=tools)
    assert second.choices[0].message.content == "Il fait 4 °C."
    sent = provider.requests[1]["messages"]
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"] == call.id


def test_the_stream_helper_parses_tool_calls(python: openai.OpenAI, provider: ScriptedProvider) -> None:
    play(provider, [*call_tool("weather", '{"city":', '"Oslo"}'), *finish(reason="tool_calls")])
    with python.chat.completions.stream(
        model="gpt-4o", messages=[USER], tools=[openai.pydantic_function_tool(weather)]
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        (call,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert [event.parsed_arguments for event in done] == [weather(city="Oslo")]
    assert call.function.parsed_arguments == weather(city="Oslo")


def test_several_choices(python: openai.OpenAI, provider: ScriptedProvider) -> None:
    play(provider, [*say("un"), *finish()], [*say("deux"), *finish()])
    answer = python.chat.completions.create(model="gpt-4o", messages=[USER], n=2)
    assert {choice.message.content for choice in answer.choices} == {"un", "deux"}


def test_models_are_listed_and_found(python: openai.OpenAI) -> None:
    listed = {model.id: model for model in python.models.list()}
    assert {"gpt-4o", "V2", "google/gemma-3-27b-it", "default"} <= set(listed)
    assert listed["gpt-4o"].owned_by == "openai"
    assert python.models.retrieve("google/gemma-3-27b-it").id == "google/gemma-3-27b-it"
    with pytest.raises(openai.NotFoundError) as caught:
        python.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_embeddings_are_the_same_as_numbers_and_as_base64(python: openai.OpenAI) -> None:
    texts = ["Le chat dort.", "The cat sleeps."]
    by_default = python.embeddings.create(model=LOCAL_EMBEDDINGS, input=texts)
    as_numbers = python.embeddings.create(model=LOCAL_EMBEDDINGS, input=texts, encoding_format="float")
    assert [item.index for item in by_default.data] == [0, 1]
    assert len(by_default.data[0].embedding) == 512
    for one, other in zip(by_default.data, as_numbers.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert by_default.usage.total_tokens == by_default.usage.prompt_tokens > 0
    assert impact_of(by_default)["cost_eur"] == 0.0


def test_errors_are_the_clients_own_classes(python: openai.OpenAI, provider: ScriptedProvider) -> None:
    with pytest.raises(openai.AuthenticationError):
        python.with_options(api_key="sk-wrong").models.list()
    with pytest.raises(openai.NotFoundError) as unknown:
        python.chat.completions.create(model="gpt-9", messages=[USER])
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        python.chat.completions.create(model="gpt-4o", messages=[USER], temperature=9)
    assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
    assert bad.value.request_id
    play(provider, [Status(429, None, (("Retry-After", "99"),))])
    with pytest.raises(openai.RateLimitError) as limited:
        python.chat.completions.create(model="gpt-4o", messages=[USER], stream=True)
    assert limited.value.response.headers["retry-after"] == "99"
    play(provider, [Status(401)])
    with pytest.raises(openai.InternalServerError) as failed:
        python.chat.completions.create(model="gpt-4o", messages=[USER])
    assert failed.value.status_code == 502


def test_the_client_does_not_retry_what_the_router_has_given_up(
    python: openai.OpenAI, provider: ScriptedProvider
) -> None:
    play(provider, [Status(401)])
    with pytest.raises(openai.InternalServerError):
        python.with_options(max_retries=3).chat.completions.create(model="gpt-4o", messages=[USER])
    assert len(provider.requests) == 1


async def test_an_error_in_mid_stream_raises(
    python: openai.OpenAI, python_async: openai.AsyncOpenAI, provider: ScriptedProvider
) -> None:
    cut = [*say("Il", " était"), Wait(0.05), Cut()]
    play(provider, cut, cut, cut)
    said: list[str] = []

    chunks = python.chat.completions.create(model="gpt-4o", messages=[USER], stream=True)
    with pytest.raises(openai.APIError, match="openai broke the connection") as caught:
        said.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == ["", "Il", " était"]
    assert caught.value.code == "provider_cut"
    stream = await python_async.chat.completions.create(model="gpt-4o", messages=[USER], stream=True)
    with pytest.raises(openai.APIError):
        _ = [chunk async for chunk in stream]
    with (
        pytest.raises(openai.APIError),
        python.chat.completions.stream(model="gpt-4o", messages=[USER]) as helped,
    ):
        helped.until_done()
