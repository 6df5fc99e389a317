"""Spark's image understanding: the image first, raw, one, and only what the vendor takes."""

import asyncio
import base64
import time
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from domain.errors import BadRequest, ProviderStalled
from tests.spark_calls import answer, call, deltas_of, model, spark
from tests.spark_server import counted, say, spark_server

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(64))


def picture(content: bytes = PNG, kind: str = "image/png") -> dict[str, Any]:
    encoded = base64.b64encode(content).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encoded}"}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(("content", "kind"), [(PNG, "image/png"), (JPEG, "image/jpeg"), (JPEG, "image/jpg")])
async def test_the_image_comes_first_raw_whatever_the_order_it_came_in(content, kind):
    asked = [SystemMessage("Brief"), HumanMessage("Hi"), HumanMessage([text("What is it?"), picture(content, kind)])]
    asked += [AIMessage("A cat"), HumanMessage("Which colour?")]
    async with spark_server(say("Black", usage=counted(prompt=273))) as server:
        message = await answer(spark(server), call(asked, model("vision")))
    assert server.paths == ["/v2.1/image"]
    assert server.asked["parameter"]["chat"]["domain"] == "general"
    image, *turns = server.asked["payload"]["message"]["text"]
    assert base64.b64decode(image["content"], validate=True) == content
    assert [turn["content"] for turn in turns] == ["Brief\n\nHi\n\nWhat is it?", "A cat", "Which colour?"]
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == 273


async def test_the_largest_image_allowed_goes_through():
    largest = PNG + bytes(4 * 1024 * 1024 - len(PNG))
    async with spark_server(say("Big")) as server:
        assert (await answer(spark(server), call([HumanMessage([text("?"), picture(largest)])], model("vision")))).text


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([text("What is it?")], "one image, not 0"),
        ([text("?"), picture(), picture()], "one image, not 2"),
        ([picture()], "needs a question"),
        ([text("?"), picture(PNG + bytes(4 * 1024 * 1024))], "larger than 4194304"),
        ([text("?"), picture(b"GIF89a", "image/gif")], "image/gif"),
        ([text("?"), picture(JPEG, "image/png")], "image/jpeg"),
        ([text("?"), {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}], "data URI"),
        ([text("?"), {"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}], "base64"),
    ],
)
async def test_an_image_that_spark_would_refuse_is_refused_here(parts, words):
    with pytest.raises(BadRequest, match=words) as refused:
        await deltas_of(spark(), call([HumanMessage(parts)], model("vision")))
    assert len(refused.value.message) < 400


async def test_a_conversation_about_an_image_begins_with_the_user():
    with pytest.raises(BadRequest, match="first message"):
        await deltas_of(spark(), call([AIMessage("Hello"), HumanMessage([text("?"), picture()])], model("vision")))


async def test_the_better_of_the_two_domains_is_chosen_by_its_name():
    async with spark_server(say("A cat")) as server:
        await answer(spark(server), call([HumanMessage([picture(), text("?")])], model("imagev3")))
    assert server.asked["parameter"]["chat"]["domain"] == "imagev3"


async def test_a_vendor_that_does_not_read_the_image_is_stalled_and_holds_nobody():
    largest = picture(PNG + bytes(4 * 1024 * 1024 - len(PNG)))
    hears = asyncio.Event()
    async with spark_server(deaf_until=hears) as server:
        started = time.perf_counter()
        with pytest.raises(ProviderStalled):
            await answer(
                spark(server, stall_timeout_s=0.3), call([HumanMessage([text("?"), largest])], model("vision"))
            )
        waited_s, was_heard = time.perf_counter() - started, server.left_early.is_set()
        hears.set()
        assert waited_s < 10
        assert not was_heard
        await asyncio.wait_for(server.left_early.wait(), 30)
