"""Taking a document in: batch by batch, cut off anywhere, begun again where it was; every failure has its reason."""

import asyncio
import dataclasses
import itertools
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from core import job_turns
from core.jobs import RetryLater, TakenAway
from domain.documents import Document
from domain.errors import BadRequest, ModelUnavailable, ProviderRefused, ProviderUnreachable
from services.job_attempts import MAX_ATTEMPTS, remove_left_files
from services.rag.documents import SMALL_BYTES
from services.rag.extraction.extractor import ExtractedPart, ExtractionLimits
from services.rag.ingest import BATCH, time_limit_s
from services.rag.ingest_store import IngestStore
from tests.house_for_tests import until
from tests.projects_for_tests import ALICE, BOB, House, lines_of, nowhere

LINES = [f"ligne numéro {number} du document" for number in range(5 * BATCH + 3)]
TEXT = "\n".join(LINES)
DOWN = ProviderUnreachable("the provider cannot be reached", retryable=True)


async def perform(house: House, document: Document) -> None:
    await house.ingest.perform(str(document.document_id), str(document.job_id))


def stored(house: House) -> list[str]:
    return [row["text"] for row in house.rows("SELECT text FROM passages ORDER BY document_id, ordinal")]


def is_running(house: House) -> bool:
    return house.rows("SELECT status FROM documents") == [{"status": "running"}]


async def test_a_document_becomes_passages_in_order_and_its_bytes_go(house: House) -> None:
    document = await house.get("p", await house.take_in("p", TEXT))
    assert stored(house) == LINES
    assert house.embedder.texts == LINES
    assert (document.status, document.progress_percent, document.error) == ("succeeded", 100, None)
    assert (document.passages, document.pages) == (len(LINES), 5)
    assert document.finished_at is not None
    assert house.rows("SELECT * FROM document_files") == []
    assert list(house.ingest._directory.iterdir()) == []


async def test_a_document_gives_way_to_those_of_others_and_goes_on_after_what_is_stored(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(job_turns, "_clock", lambda: float(next(ticks)))
    monkeypatch.setattr(job_turns, "TURN_S", 0)
    long = (await house.add("p", TEXT * 120)).document
    empty = f"\n{' ' * 1_000}" * (SMALL_BYTES // 1_000)
    lines = [f"one line, number {number}{empty}" for number in range(2)]
    others = [(await house.add("b", line, principal=BOB)).document for line in lines]
    house.jobs.start()
    done = await house.until("p", long.document_id, "succeeded")
    assert done.passages == len((TEXT * 120).splitlines())
    finished = house.rows("SELECT document_id, status FROM documents ORDER BY finished_at")
    assert [row["error"] for row in house.rows("SELECT error FROM documents")] == [None] * 3
    assert [row["document_id"] for row in finished] == [*(other.document_id for other in others), long.document_id]
    assert len(house.embedder.texts) == done.passages + 2, "no passage is embedded twice"


async def test_a_line_does_not_wait_for_a_file_that_hangs_its_reader(house: House) -> None:
    hangs = asyncio.Event()

    async def extract(path: Path, filename: str, limits: ExtractionLimits) -> AsyncGenerator[ExtractedPart]:
        if filename == "hostile.txt":
            hangs.set()
            await asyncio.Event().wait()
        async for part in lines_of(path, filename, limits):
            yield part

    house.ingest._extract = extract
    for number in range(20):
        await house.add("p", f"{TEXT}, copy {number}" * 120, name="hostile.txt")
    house.jobs.start()
    await asyncio.wait_for(hangs.wait(), 20)
    one_line = (await house.add("b", "one line", principal=BOB)).document
    async with asyncio.timeout(20):
        while (await house.get("b", one_line.document_id, BOB)).status != "succeeded":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert house.rows("SELECT count(*) AS n FROM documents WHERE status = 'running'") == [{"n": 1}]


async def test_the_time_to_read_a_file_grows_with_its_size_up_to_the_limit(house: House) -> None:
    allowed: list[float] = []

    async def extract(path: Path, filename: str, limits: ExtractionLimits) -> AsyncGenerator[ExtractedPart]:
        allowed.append(limits.timeout_s)
        async for part in lines_of(path, filename, limits):
            yield part

    house.ingest._extract = extract
    await house.take_in("p", "one line")
    assert 20 <= allowed[0] < 21
    assert time_limit_s(3_000_000, 600) == 110
    assert time_limit_s(100_000_000, 600) == 600


async def test_the_ledger_has_one_row_a_document(house: House) -> None:
    document = await house.get("p", await house.take_in("p", TEXT))
    (row,) = house.ledger.rows
    assert (row.run_id, row.subject, row.project_id) == (document.job_id, "alice", "p")
    assert (row.request_id, row.status, row.agent) == ("req-1", "succeeded", None)
    assert (row.model, row.message_count) == ("use-multilingual-v3", len(LINES))
    assert row.input_tokens == sum(len(line.split()) for line in LINES)


async def test_one_that_is_cut_off_goes_on_after_what_is_stored(house: House) -> None:
    document = (await house.add("p", TEXT)).document
    gate = house.embedder.gate = asyncio.Event()
    gate.set()
    original = IngestStore.add

    async def add_twice(self: IngestStore, *arguments: object, **more: object) -> None:
        await original(self, *arguments, **more)
        if len(stored(house)) >= 2 * BATCH:
            gate.clear()

    IngestStore.add = add_twice
    try:
        job = asyncio.create_task(perform(house, document))
        await until(lambda: not gate.is_set(), 10)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    finally:
        IngestStore.add = original
    going = await house.get("p", document.document_id)
    assert (going.status, going.passages) == ("running", 2 * BATCH)
    assert 30 < going.progress_percent < 60
    assert list(house.ingest._directory.iterdir()) == []
    gate.set()
    await perform(house, document)
    assert stored(house) == LINES
    assert house.embedder.texts == LINES, "what was stored is not embedded again"
    (row,) = [row for row in house.ledger.rows if row.run_id == document.job_id]
    assert (row.input_tokens, row.message_count) == (sum(len(line.split()) for line in LINES), len(LINES))


async def test_an_attempt_that_lost_its_document_writes_nothing_more(house: House) -> None:
    document = (await house.add("p", TEXT)).document
    house.embedder.gate = asyncio.Event()
    slow = asyncio.create_task(perform(house, document))
    await until(lambda: is_running(house), 10)
    first = house.rows("SELECT claim FROM documents")[0]["claim"]
    quick = asyncio.create_task(perform(house, document))
    await until(lambda: bool(house.rows("SELECT claim FROM documents")[0]["claim"] != first), 10)
    house.embedder.gate.set()
    await asyncio.gather(slow, quick)
    assert stored(house) == LINES
    rows = [row.status for row in house.ledger.rows]
    assert sorted(rows) == ["cancelled", "succeeded"], "what the other embedded in vain is counted as well"


async def test_a_store_refuses_whoever_is_not_at_it(house: House) -> None:
    document = (await house.add("p", TEXT)).document
    store = house.ingest._store
    old = await store.take(document.document_id, document.job_id)
    new = await store.take(document.document_id, document.job_id)
    assert old is not None
    assert new is not None
    for deed in (
        lambda: store.add(old, [], percent=1, pages=None, usage=[]),
        lambda: store.succeed(old),
        lambda: store.fail(old, "no"),
        lambda: store.postpone(old, "no"),
        lambda: store.succeed(dataclasses.replace(new, document_id=document.job_id)),
    ):
        with pytest.raises(TakenAway):
            await deed()
    assert (await house.get("p", document.document_id)).status == "running"
    await store.succeed(new)
    assert await store.take(document.document_id, document.job_id) is None


async def test_what_cannot_be_read_fails_at_once_with_the_reason(house: House) -> None:
    document = await house.get("p", await house.take_in("p", "unreadable\nrest"))
    assert (document.status, document.error) == ("failed", "the file is damaged: save it anew")
    assert document.finished_at is not None
    assert house.rows("SELECT * FROM document_files") == []
    assert house.ledger.rows == []


async def test_a_document_without_text_fails(house: House) -> None:
    document = await house.get("p", await house.take_in("p", "\n  \n"))
    assert (document.status, document.error) == ("failed", "no text was found in it")


async def test_a_permanent_refusal_fails_at_once_and_leaves_no_passages(house: House) -> None:
    document = (await house.add("p", TEXT)).document
    house.embedder.failures.append(ProviderRefused("the provider refuses this text", retryable=False))
    await perform(house, document)
    failed = await house.get("p", document.document_id)
    assert (failed.status, failed.error, failed.passages) == ("failed", "the provider refuses this text", 0)
    assert nowhere(house.url, "ligne numéro") == []
    house.embedder.failures.append(BadRequest("text 0 is odd"))
    other = await house.take_in("p", "other text")
    assert (await house.get("p", other)).error == "text 0 is odd"


@pytest.mark.parametrize("error", [DOWN, ModelUnavailable("no key"), OSError(28, "No space left on device")])
async def test_what_may_pass_is_tried_later_and_says_so_meanwhile(house: House, error: Exception) -> None:
    document = (await house.add("p", TEXT)).document
    house.embedder.failures += [error] * 3
    waits = []
    for _ in range(3):
        with pytest.raises(RetryLater) as later:
            await perform(house, document)
        waits.append(later.value.wait_s)
    assert waits == [5, 10, 20]
    waiting = await house.get("p", document.document_id)
    assert waiting.status == "queued"
    assert waiting.error is not None
    await perform(house, document)
    done = await house.get("p", document.document_id)
    assert (done.status, done.error) == ("succeeded", None)
    assert stored(house) == LINES


async def test_it_is_not_tried_for_ever(house: House) -> None:
    document = (await house.add("p", TEXT)).document
    house.embedder.failures += [DOWN] * MAX_ATTEMPTS
    for _ in range(MAX_ATTEMPTS - 1):
        with pytest.raises(RetryLater):
            await perform(house, document)
    await perform(house, document)
    failed = await house.get("p", document.document_id)
    assert failed.status == "failed"
    assert failed.error == f"it was tried {MAX_ATTEMPTS} times in vain: the provider cannot be reached"


async def test_a_document_that_ends_its_worker_each_time_is_given_up(house: House) -> None:
    document = (await house.add("p", TEXT)).document
    for _ in range(MAX_ATTEMPTS):
        assert await house.ingest._store.take(document.document_id, document.job_id)
    await perform(house, document)
    failed = await house.get("p", document.document_id)
    assert (failed.status, house.embedder.texts) == ("failed", [])


async def test_progress_makes_the_count_begin_anew(house: House) -> None:
    document = (await house.add("p", TEXT)).document
    for _ in range(3):
        house.embedder.failures.append(DOWN)
        with pytest.raises(RetryLater):
            await perform(house, document)
    taken = await house.ingest._store.take(document.document_id, document.job_id)
    assert taken is not None
    assert taken.attempts == 4
    await house.ingest._store.add(taken, [], percent=1, pages=None, usage=[])
    again = await house.ingest._store.take(document.document_id, document.job_id)
    assert again is not None
    assert again.attempts == 1


async def test_deleted_while_it_is_taken_in(house: House) -> None:
    document = (await house.add("p", TEXT)).document
    gate = house.embedder.gate = asyncio.Event()
    job = asyncio.create_task(perform(house, document))
    await until(lambda: is_running(house), 10)
    await house.documents.delete(ALICE, "p", str(document.document_id))
    gate.set()
    await job
    assert nowhere(house.url, str(document.document_id)) == []
    assert nowhere(house.url, "ligne numéro") == []
    assert [row.status for row in house.ledger.rows] == ["cancelled"]


async def test_what_was_spent_on_a_document_that_is_deleted_before_its_end_is_counted(house: House) -> None:
    document = (await house.add("p", TEXT)).document
    house.embedder.failures.append(DOWN)
    taken = await house.ingest._store.take(document.document_id, document.job_id)
    assert taken is not None
    usage = {"model": "m", "provider": "local", "status": "succeeded", "error_code": None, "input_tokens": 7}
    more = {"estimated": False, "latency_s": 0.5, "cpu_s": None, "ram_gb_s": None}
    await house.ingest._store.add(taken, [], percent=1, pages=None, usage=[usage | more])
    await house.documents.delete(ALICE, "p", str(document.document_id))
    (row,) = house.ledger.rows
    assert (row.run_id, row.status, row.input_tokens) == (document.job_id, "cancelled", 7)


async def test_odd_characters_are_stored_as_far_as_they_can_be(house: House) -> None:
    await house.take_in("p", "un\x00deux trois\n🙂 ok\n")
    assert stored(house) == ["un�deux trois", "🙂 ok"]
    assert (await house.search("p", "trois"))[0].ordinal == 0


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path: Path) -> None:
    for name, age_s in {"old": 100_000, "new": 10}.items():
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (time.time() - age_s, time.time() - age_s))
    remove_left_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    remove_left_files(tmp_path / "nowhere")
