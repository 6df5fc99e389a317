"""POST /v1/chat/completions on the wire: the details that servers get wrong, one by one."""

import base64
import json
from typing import Any

import httpx
import pytest

from tests.openai_wire import check_chunks, hello, objects_of, text_of
from tests.provider_thread import play
from tests.scripted_provider import ScriptedProvider, call_tool, chunk, finish, say

IMPACT = {"cost_eur", "pricing", "energy_kwh", "gwp_kgCO2eq", "wcf_liters", "equivalences", "usage_by_model"} | {
    "model",
    "requested_model",
    "agent",
    "fallbacks",
    "run_id",
    "run_ids",
    "request_id",
    "latency_s",
    "time_to_first_token_s",
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()


async def post(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    answer = await client.post("/v1/chat/completions", json={**hello(), **body})
    assert answer.status_code == 200, answer.text
    return answer


async def stream(client: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    answer = await post(client, stream=True, **body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    return objects_of(answer.content)


async def test_a_stream_is_byte_for_byte_openais(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, [*say("Il", " était"), *finish(25, 2)])
    answer = await post(client, stream=True)
    blocks = answer.content.split(b"\n\n")
    first = json.loads(blocks[0][6:])
    head = f'data: {{"id":"{first["id"]}","object":"chat.completion.chunk","created":{first["created"]},'
    head += '"model":"gpt-4o","choices":[{"index":0,"delta":'
    tail = ',"logprobs":null,"finish_reason":null}]}'
    assert blocks[0].decode() == head + '{"role":"assistant","content":""}' + tail
    assert blocks[1].decode() == head + '{"content":"Il"}' + tail
    assert blocks[2].decode() == head + '{"content":" était"}' + tail
    end = head + '{},"logprobs":null,"finish_reason":"stop"}],"impact":{'
    assert blocks[3].decode().startswith(end)
    assert blocks[4:] == [b"data: [DONE]", b""]


async def test_without_include_usage_no_chunk_speaks_of_usage_and_the_last_has_the_impact(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Oui"), *finish(25, 1)])
    chunks = await stream(client)
    check_chunks(chunks)
    assert text_of(chunks) == "Oui"
    assert all("impact" not in chunk for chunk in chunks[:-1])
    assert chunks[-1]["impact"].keys() >= IMPACT


async def test_include_usage_adds_one_chunk_without_choices(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Oui"), *finish(25, 1)])
    chunks = await stream(client, stream_options={"include_usage": True})
    usage = chunks[-1]
    check_chunks(list(chunks), include_usage=True)
    assert usage["usage"]["prompt_tokens"] == 25
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert usage["impact"]["cost_eur"] > 0
    assert usage["impact"]["run_id"].replace("-", "") == usage["id"].removeprefix("chatcmpl-")


async def test_a_whole_answer_has_openais_fields_and_our_impact(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Il", " était"), *finish(25, 2)])
    content = (await post(client)).json()
    impact = content.pop("impact")
    assert content == {
        "id": content["id"],
        "object": "chat.completion",
        "created": content["created"],
        "model": "gpt-4o",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Il était", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 25,
            "completion_tokens": 2,
            "total_tokens": 27,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
    assert impact.keys() >= IMPACT
    assert impact["pricing"]["by_model"]["gpt-4o"]["total"] == impact["cost_eur"] > 0
    assert impact["gwp_kgCO2eq"]["mean"] > 0
    assert impact["equivalences"]["car_km"] > 0


@pytest.mark.parametrize(
    ("name", "agent", "model"),
    [
        ("V2", "V2", "gpt-4o-mini"),
        ("agent:V2", "V2", "gpt-4o-mini"),
        ("V2@gpt-4o", "V2", "gpt-4o"),
        ("agent:V2@gpt-4o", "V2", "gpt-4o"),
        ("gpt-4o", None, "gpt-4o"),
    ],
)
async def test_model_names_a_model_or_an_agent_or_both(
    client: httpx.AsyncClient, provider: ScriptedProvider, name: str, agent: str | None, model: str
) -> None:
    for _ in range(2):
        play(provider, [*say("Oui"), *finish()])
    content = (await post(client, model=name)).json()
    chunks = await stream(client, model=name)
    check_chunks(list(chunks))
    assert content["model"] == chunks[0]["model"] == model
    assert content["impact"]["agent"] == chunks[-1]["impact"]["agent"] == agent
    assert content["choices"][0]["message"]["content"] == text_of(chunks) == "Oui"
    assert [message["role"] for message in provider.requests[0]["messages"]] == ["system"] * bool(agent) + ["user"]


async def test_an_agent_whose_answer_was_cut_at_its_limit_says_so(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    for _ in range(2):
        play(provider, [*say("Il était une"), *finish(reason="length")])
    content = (await post(client, model="V2", max_tokens=3)).json()
    chunks = await stream(client, model="V2", max_tokens=3)
    check_chunks(list(chunks))
    assert content["choices"][0]["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_an_answer_of_nothing_is_still_a_stream_with_a_role_and_an_end(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say(), *finish(5, 0)])
    chunks = await stream(client)
    check_chunks(list(chunks))
    assert len(chunks) == 2
    assert text_of(chunks) == ""


async def test_tool_calls_stream_in_fragments_with_id_type_and_name_in_the_first_only(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    second = {"index": 1, "id": "call_2", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    play(
        provider,
        [*call_tool("weather", '{"city"', ': "Oslo"}'), chunk({"tool_calls": [second]}), *finish(reason="tool_calls")],
    )
    chunks = await stream(client, tools=TOOLS, tool_choice="auto", parallel_tool_calls=True)
    check_chunks(list(chunks))
    assert chunks[0]["choices"][0]["delta"]["content"] is None
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    fragments = [f for c in chunks for part in c["choices"] for f in part["delta"].get("tool_calls", ())]
    assert fragments == [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city"'}},
        {"index": 0, "function": {"arguments": ': "Oslo"}'}},
        second,
    ]
    asked = provider.requests[0]
    assert (asked["tools"], asked["tool_choice"], asked["parallel_tool_calls"]) == (TOOLS, "auto", True)


async def test_a_whole_tool_call_has_no_text_and_its_arguments_as_a_string(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*call_tool("weather", '{"city"', ': "Oslo"}'), *finish(reason="tool_calls")])
    (choice,) = (await post(client, tools=TOOLS)).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}


@pytest.mark.parametrize("streamed", [True, False])
async def test_several_choices_are_as_many_runs_with_summed_usage(
    client: httpx.AsyncClient, provider: ScriptedProvider, streamed: bool
) -> None:
    for text in ("un", "deux", "trois"):
        play(provider, [*say(text), *finish(10, 2)])
    asked = {"n": 3, "seed": 7}
    if streamed:
        chunks = await stream(client, **asked, stream_options={"include_usage": True})
        end = chunks[-1]
        texts = [text_of(chunks, index) for index in range(3)]
        check_chunks(list(chunks), include_usage=True, choices=3)
    else:
        end = (await post(client, **asked)).json()
        assert [choice["index"] for choice in end["choices"]] == [0, 1, 2]
        texts = [choice["message"]["content"] for choice in end["choices"]]
    assert sorted(texts) == ["deux", "trois", "un"]
    assert (end["usage"]["prompt_tokens"], end["usage"]["completion_tokens"]) == (30, 6)
    assert len(set(end["impact"]["run_ids"])) == 3
    assert {request["seed"] for request in provider.requests} == {7, 8, 9}


@pytest.mark.parametrize("streamed", [True, False])
async def test_log_probabilities_come_with_their_token(
    client: httpx.AsyncClient, provider: ScriptedProvider, streamed: bool
) -> None:
    def token(text: str) -> Any:
        entry = {"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": []}
        choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": [entry]}, "finish_reason": None}
        return chunk({}, choices=[choice])

    play(provider, [*say(), token("Il"), token(" est"), *finish()])
    asked = {"logprobs": True, "top_logprobs": 2}
    if streamed:
        chunks = await stream(client, **asked)
        check_chunks(list(chunks))
        parts = [part for chunk in chunks for part in chunk["choices"] if part["logprobs"]]
        assert [part["delta"].get("content") for part in parts] == ["Il", " est"]
        assert [part["logprobs"]["content"][0]["token"] for part in parts] == ["Il", " est"]
        assert text_of(chunks) == "Il est"
    else:
        (choice,) = (await post(client, **asked)).json()["choices"]
        assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["Il", " est"]
    assert provider.requests[0]["top_logprobs"] == 2


@pytest.mark.parametrize("streamed", [True, False])
async def test_reasoning_is_told_apart_from_the_answer(
    client: httpx.AsyncClient, provider: ScriptedProvider, streamed: bool
) -> None:
    play(provider, [*say(), chunk({"reasoning_content": "Hmm"}), chunk({"content": "Oui"}), *finish()])
    if streamed:
        chunks = await stream(client)
        check_chunks(list(chunks))
        deltas = [part["delta"] for chunk in chunks for part in chunk["choices"]]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hmm"
        assert text_of(chunks) == "Oui"
    else:
        message = (await post(client)).json()["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == ("Hmm", "Oui")


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_refusal_is_not_the_answers_text(
    client: httpx.AsyncClient, provider: ScriptedProvider, streamed: bool
) -> None:
    play(provider, [chunk({"role": "assistant", "refusal": "I cannot"}), *finish()])
    if streamed:
        chunks = await stream(client)
        check_chunks(list(chunks))
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": None, "refusal": "I cannot"}
    else:
        message = (await post(client)).json()["choices"][0]["message"]
        assert message == {"role": "assistant", "content": None, "refusal": "I cannot"}


@pytest.mark.parametrize(
    ("theirs", "ours"), [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("eos", "stop")]
)
async def test_finish_reasons_are_openais_four(
    client: httpx.AsyncClient, provider: ScriptedProvider, theirs: str, ours: str
) -> None:
    for _ in range(2):
        play(provider, [*say("Oui"), *finish(reason=theirs)])
    assert (await post(client)).json()["choices"][0]["finish_reason"] == ours
    assert (await stream(client))[-1]["choices"][0]["finish_reason"] == ours


async def test_known_parameters_are_passed_on_null_ones_left_out_and_unknown_ones_ignored(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Oui"), *finish()])
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    passed = {"stop": ["\n"], "seed": 3, "top_p": 0.5, "temperature": 0.1, "response_format": schema}
    await post(client, **passed, max_tokens=12, logprobs=None, tools=None, n=None, user=None, of_tomorrow={"a": 1})
    asked = provider.requests[0]
    assert {key: asked[key] for key in passed} == passed
    assert asked["max_completion_tokens"] == 12
    rest = set(asked) - set(passed)
    assert rest <= {"model", "messages", "stream", "stream_options", "max_completion_tokens"}


async def test_the_newer_spelling_of_max_tokens_goes_before_the_older(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Oui"), *finish()])
    await post(client, max_tokens=12, max_completion_tokens=34)
    assert provider.requests[0]["max_completion_tokens"] == 34


async def test_every_role_and_form_of_content_is_understood(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Oui"), *finish()])
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    messages = [
        {"role": "developer", "content": "Be brief.", "name": "boss"},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}], "of_tomorrow": 1},
        # As the Python client writes its own answers back.
        {"role": "assistant", "content": None, "refusal": None, "function_call": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "4 °C"}]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": PNG}}]},
    ]
    await post(client, messages=messages)
    asked = provider.requests[0]["messages"]
    assert [message["role"] for message in asked] == ["system", "user", "assistant", "tool", "user"]
    assert asked[0]["content"] == "Be brief."
    assert asked[1]["content"] == "What is it?"
    assert asked[2]["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}
    assert (asked[3]["tool_call_id"], asked[3]["content"]) == ("call_1", "4 °C")
    assert asked[4]["content"][1]["image_url"]["url"] == PNG


@pytest.mark.parametrize("arguments", ['{"city":"Paris"}', "null", "[]", "5", '{"city": "Par'])
async def test_a_history_goes_on_to_the_letter_with_its_reasoning_and_its_vendors_fields(
    client: httpx.AsyncClient, provider: ScriptedProvider, arguments: str
) -> None:
    play(provider, [*say("Oui"), *finish()])
    function = {"name": "weather", "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function, "extra_content": {"signature": "c2ln"}}
    messages = [
        {"role": "user", "content": "Quel temps ?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm", "x_vendor": {"a": 1}},
        {"role": "tool", "tool_call_id": "call_1", "content": "4 °C"},
    ]
    assert (await post(client, messages=messages)).status_code == 200
    assert provider.requests[0]["messages"][1] == messages[1]
