"""The one chat model: whatever way a node calls it, the text goes out once, the call is counted once, all is exact."""

from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langgraph.graph import MessagesState

from domain.errors import ContextOverflow, ProviderCut, ProviderRefused, UnknownModel
from domain.usage import TokenUsage
from services.llm.chat_model import RouteurChatModel
from tests.house_for_tests import model, one_node, open_house, said, until
from tests.scripted_provider import (
    DONE,
    Chunk,
    Cut,
    Status,
    Step,
    chunk,
    finish,
    say,
    scripted_provider,
)

QUESTION = [HumanMessage("Hi")]
BONJOUR: list[Step] = [*say("Bon", "jour"), *finish(10, 2)]


class Heard(AsyncCallbackHandler):
    """Keeps what LangChain's callbacks tell."""

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.ends = 0
        self.errors: list[BaseException] = []

    async def on_chat_model_start(self, *_: Any, **kwargs: Any) -> None:
        self.starts.append(kwargs)

    async def on_llm_new_token(self, token: str, **_: Any) -> None:
        self.tokens.append(token)

    async def on_llm_end(self, *_: Any, **__: Any) -> None:
        self.ends += 1

    async def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.errors.append(error)


# Whole and in pieces


async def test_ainvoke_gives_the_whole_message_with_its_usage_and_finish_reason():
    async with model(BONJOUR) as (llm, _, _):
        message = await llm.ainvoke(QUESTION)
    assert type(message) is AIMessage
    assert message.content == "Bonjour"
    assert message.usage_metadata is not None
    assert (message.usage_metadata["input_tokens"], message.usage_metadata["output_tokens"]) == (10, 2)
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["model_name"] == "scripted-2026"
    assert message.id


async def test_the_text_of_ainvoke_goes_to_the_run_once():
    async with model(BONJOUR) as (llm, run, _):
        await llm.ainvoke(QUESTION)
        assert said(run) == "Bonjour"
        assert run.answering_model == "gpt-4o-mini"
        assert run.first_token_at is not None


async def test_astream_gives_pieces_and_sends_the_text_once():
    async with model(BONJOUR) as (llm, run, _):
        chunks = [piece async for piece in llm.astream(QUESTION)]
        assert [piece.text for piece in chunks if piece.text] == ["Bon", "jour"]
        assert said(run) == "Bonjour"
    whole = AIMessageChunk(content="")
    for piece in chunks:
        whole += piece
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 2
    assert whole.response_metadata["finish_reason"] == "stop"


async def test_a_call_is_counted_once_however_it_is_made():
    async with model(BONJOUR, BONJOUR, BONJOUR) as (llm, run, _):
        await llm.ainvoke(QUESTION)
        _ = [piece async for piece in llm.astream(QUESTION)]
        _ = [event async for event in llm.astream_events(QUESTION)]
        assert [call.usage for call in run.calls] == [TokenUsage(10, 2, 0)] * 3
        assert [call.status for call in run.calls] == ["succeeded"] * 3


async def test_an_astream_left_early_is_counted_as_cancelled():
    async with model([*say("Bon", "jour"), *[chunk({"content": "."})] * 500, *finish()]) as (llm, run, _):
        stream = llm.astream(QUESTION)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        await until(lambda: bool(run.calls))
        assert [(call.status, call.estimated) for call in run.calls] == [("cancelled", True)]


async def test_an_answer_that_is_cut_raises_and_is_counted():
    async with model([*say("Half"), Cut()]) as (llm, run, _):
        with pytest.raises(ProviderCut):
            await llm.ainvoke(QUESTION)
        assert said(run) == "Half"
        assert [(call.status, call.error_code, call.estimated) for call in run.calls] == [
            ("failed", "provider_cut", True)
        ]


async def test_usage_that_grows_from_chunk_to_chunk_is_the_last_one_and_not_the_sum():
    growing = [
        chunk({"content": piece}, usage={"prompt_tokens": 10, "completion_tokens": n, "total_tokens": 10 + n})
        for n, piece in enumerate("abc", start=1)
    ]
    async with model([*growing, *finish(10, 3)], [*growing, *finish(10, 3)]) as (llm, run, _):
        message = await llm.ainvoke(QUESTION)
        whole = AIMessageChunk(content="")
        async for piece in llm.astream(QUESTION):
            whole += piece
        for answer in (message, whole):
            assert answer.content == "abc"
            assert answer.usage_metadata is not None
            assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]) == (10, 3)
        assert [call.usage for call in run.calls] == [TokenUsage(10, 3, 0)] * 2
        assert said(run) == "abcabc"


# What is asked


async def test_the_runs_model_and_parameters_reach_the_wire():
    async with model(BONJOUR, model="gpt-4o", parameters={"temperature": 0.3, "max_tokens": 9}) as (llm, _, provider):
        await llm.ainvoke(QUESTION)
        sent = provider.requests[0]
    assert (sent["model"], sent["temperature"], sent["max_completion_tokens"]) == ("gpt-4o", 0.3, 9)


async def test_what_a_node_binds_wins_over_what_the_run_asks_for():
    async with model(BONJOUR, parameters={"temperature": 0.3, "max_tokens": 9}) as (llm, run, provider):
        await llm.bind(model="gpt-4o", temperature=0.0, stop=["END"]).ainvoke(QUESTION)
        sent = provider.requests[0]
        assert (sent["model"], sent["temperature"], sent["max_completion_tokens"]) == ("gpt-4o", 0.0, 9)
        assert sent["stop"] == ["END"]
        assert [call.model for call in run.calls] == ["gpt-4o"]


async def test_a_pinned_model_is_another_providers_when_the_catalogue_says_so():
    async with model(BONJOUR, parameters={"max_tokens": 9}) as (llm, run, provider):
        await llm.bind(model="mistral-small-latest").ainvoke(QUESTION)
        assert provider.requests[0]["max_tokens"] == 9
        assert run.calls[0].provider == "mistral"


async def test_outside_a_run_the_default_model_answers():
    async with scripted_provider(BONJOUR) as provider, open_house(provider) as house:
        assert (await house.llm.ainvoke("Hi")).text == "Bonjour"
        assert provider.requests[0]["model"] == "gpt-4o-mini"


async def test_a_pinned_model_that_does_not_exist_is_told():
    async with model() as (llm, run, _):
        with pytest.raises(UnknownModel, match="gpt-0"):
            await llm.bind(model="gpt-0").ainvoke(QUESTION)
        assert run.calls == []


async def test_messages_are_trimmed_to_the_runs_model():
    async with model(model="gpt-3.5-turbo") as (llm, _, _):
        history = [HumanMessage("x" * 10_000) for _ in range(20)]
        assert 0 < len(llm.trim_to_context(history)) < 20
        with pytest.raises(ContextOverflow, match=r"gpt-3\.5-turbo"):
            llm.trim_to_context([HumanMessage("x" * 100_000)])


# What is kept from the caller


@pytest.mark.parametrize("way", ["ainvoke", "astream", "astream_events"])
async def test_a_call_tagged_nostream_says_nothing_to_the_caller(way):
    async with model(BONJOUR) as (llm, run, provider):
        hushed = llm.with_config(tags=["nostream"])
        if way == "ainvoke":
            assert (await hushed.ainvoke(QUESTION)).text == "Bonjour"
        else:
            assert [piece async for piece in getattr(hushed, way)(QUESTION)]
        assert said(run) == ""
        assert len(run.calls) == 1
        assert "nostream" not in provider.requests[0]


async def test_a_tag_given_with_the_call_does_the_same():
    async with model(BONJOUR, BONJOUR) as (llm, run, _):
        await llm.ainvoke(QUESTION, config={"tags": ["nostream"]})
        _ = [piece async for piece in llm.astream(QUESTION, config={"tags": ["nostream"]})]
        assert said(run) == ""


# Callbacks


async def test_callbacks_hear_of_one_call_and_of_the_runs_model():
    heard = Heard()
    async with model(BONJOUR, model="gpt-4o", parameters={"temperature": 0.3}) as (llm, _, _):
        await llm.ainvoke(QUESTION, config={"callbacks": [heard]})
    assert (len(heard.starts), heard.ends, heard.errors) == (1, 1, [])
    assert heard.starts[0]["metadata"]["ls_model_name"] == "gpt-4o"
    assert heard.starts[0]["metadata"]["ls_temperature"] == 0.3


async def test_callbacks_hear_each_token_once_when_a_node_streams():
    heard = Heard()
    async with model(BONJOUR) as (llm, run, _):
        _ = [piece async for piece in llm.astream(QUESTION, config={"callbacks": [heard]})]
        assert "".join(heard.tokens) == "Bonjour"
        assert said(run) == "Bonjour"
        assert (len(heard.starts), heard.ends) == (1, 1)


async def test_callbacks_hear_of_a_failure_once():
    heard = Heard()
    down: list[Step] = [Status(500, {"error": "down"})]
    async with model(down, down, down, model="gpt-4o-mini") as (llm, run, _):
        with pytest.raises(ProviderRefused, match="down"):
            await llm.ainvoke(QUESTION, config={"callbacks": [heard]})
        assert (len(heard.starts), heard.ends, len(heard.errors)) == (1, 0, 1)
        assert [call.usage for call in run.calls] == [TokenUsage(0, 0)] * 3


async def test_callbacks_hear_nothing_of_a_fallback_and_the_run_hears_who_answered():
    heard = Heard()
    down: list[Step] = [Status(500, {"error": "down"})]
    async with model(down, down, BONJOUR) as (llm, run, provider):
        message = await llm.ainvoke(QUESTION, config={"callbacks": [heard]})
        assert (message.text, said(run), run.answering_model) == ("Bonjour", "Bonjour", "mistral-small-latest")
        assert (len(heard.starts), heard.ends, len(heard.errors)) == (1, 1, 0)
        assert [(call.model, call.status) for call in run.calls] == [
            ("gpt-4o-mini", "failed"),
            ("gpt-4o-mini", "failed"),
            ("mistral-small-latest", "succeeded"),
        ]
        assert [hop.model for hop in run.hops] == ["gpt-4o-mini"]
        assert [sent["model"] for sent in provider.requests] == [call.model for call in run.calls]


@pytest.mark.parametrize("pinned", ["gpt-4o-mini", "mistral-small-latest"])
async def test_langchains_own_counter_agrees_with_ours(pinned):
    counter = UsageMetadataCallbackHandler()
    async with model(BONJOUR, BONJOUR) as (llm, run, _):
        for _ in range(2):
            await llm.bind(model=pinned).ainvoke(QUESTION, config={"callbacks": [counter]})
        counted = counter.usage_metadata["scripted-2026"]
        assert counted["input_tokens"] == sum(call.usage.input_tokens or 0 for call in run.calls) == 20
        assert counted["output_tokens"] == sum(call.usage.output_tokens or 0 for call in run.calls) == 4


def a_graph(llm: RouteurChatModel) -> Any:
    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    return one_node(lambda _: answer)(llm).compile()


async def test_astream_events_give_each_token_once():
    async with model(BONJOUR) as (llm, run, _):
        events = [event async for event in a_graph(llm).astream_events({"messages": QUESTION})]
        streamed = [event["data"]["chunk"].text for event in events if event["event"] == "on_chat_model_stream"]
        assert [text for text in streamed if text] == ["Bon", "jour"]
        assert len([event for event in events if event["event"] == "on_chat_model_start"]) == 1
        assert said(run) == "Bonjour"
        assert len(run.calls) == 1


async def test_stream_mode_messages_gives_each_token_once():
    async with model(BONJOUR) as (llm, run, _):
        stream = a_graph(llm).astream({"messages": QUESTION}, stream_mode="messages")
        streamed = [message.text async for message, _ in stream]
        assert [text for text in streamed if text] == ["Bon", "jour"]
        assert said(run) == "Bonjour"
        assert len(run.calls) == 1


async def test_an_answer_of_nothing_but_its_end_is_an_empty_message():
    async with model([chunk({}, "stop"), DONE], [chunk({}, "stop"), DONE]) as (llm, run, _):
        message = await llm.ainvoke(QUESTION)
        assert (message.content, message.usage_metadata) == ("", None)
        assert run.calls[0].estimated
        assert "".join([piece.text async for piece in llm.astream(QUESTION)]) == ""


async def test_text_beside_the_finish_reason_is_kept():
    async with model([*say("Bon"), chunk({"content": "jour"}, "stop"), Chunk(b"data: [DONE]\n\n")]) as (llm, run, _):
        assert (await llm.ainvoke(QUESTION)).content == "Bonjour"
        assert said(run) == "Bonjour"
