"""kill -9 in the middle of a document: another process goes on where it was. Two processes share the work."""

import asyncio
from collections import Counter
from pathlib import Path

from services.rag.ingest import BATCH
from tests.house_for_tests import until
from tests.postgres_for_tests import WAIT_S, Child, Door
from tests.projects_for_tests import House, WordEmbedder, open_projects

WORKER = """
import asyncio, sys
from pathlib import Path
from tests.projects_for_tests import WordEmbedder, open_projects

async def main():
    embedder = WordEmbedder(log=Path(sys.argv[3]), pause_s=float(sys.argv[4]))
    async with open_projects(sys.argv[2], Path(sys.argv[1]), embedder=embedder) as house:
        house.jobs.start()
        print("at work", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""
LINES = [f"ligne {number} du document" for number in range(30 * BATCH)]
TEXT = "\n".join(LINES)


async def worker(tmp_path: Path, url: str, log: str, pause_s: float = 0.03) -> Child:
    child = await asyncio.to_thread(Child, WORKER, str(tmp_path / log), url, str(tmp_path / f"{log}.log"), str(pause_s))
    assert await asyncio.to_thread(child.read_line) == "at work"
    return child


def embedded(path: Path) -> list[str]:
    return [eval(line) for line in path.read_text().splitlines()] if path.exists() else []  # noqa: S307 - our own


def texts_of(house: House) -> list[str]:
    return [row["text"] for row in house.rows("SELECT text FROM passages ORDER BY document_id, ordinal")]


async def test_killed_in_the_middle_it_is_gone_on_with_by_another(house: House, tmp_path: Path) -> None:
    document = (await house.add("p", TEXT)).document
    first = await worker(tmp_path, house.url, "first", 0.2)
    await until(lambda: len(texts_of(house)) >= 5 * BATCH, WAIT_S)
    await asyncio.to_thread(first.kill)
    committed = texts_of(house)
    assert len(committed) < len(LINES)
    second = await worker(tmp_path, house.url, "second")
    try:
        done = await house.until("p", document.document_id, "succeeded")
        # The document is done a moment before its job is.
        await until(lambda: house.rows("SELECT * FROM procrastinate_jobs") == [], WAIT_S)
    finally:
        await asyncio.to_thread(second.kill)
    assert texts_of(house) == LINES
    assert (done.passages, done.progress_percent) == (len(LINES), 100)
    assert embedded(tmp_path / "second.log") == LINES[len(committed) :], "it begins where the other was"


async def test_killed_again_and_again_it_is_done_in_the_end(house: House, tmp_path: Path) -> None:
    document = (await house.add("p", TEXT)).document
    for number in range(4):
        before = len(texts_of(house))
        child = await worker(tmp_path, house.url, f"worker{number}", 0.2)
        await until(lambda before=before: len(texts_of(house)) > before + BATCH, WAIT_S)
        await asyncio.to_thread(child.kill)
    house.jobs.start()
    await house.until("p", document.document_id, "succeeded")
    assert texts_of(house) == LINES
    counted = Counter(house.embedder.texts)
    for number in range(4):
        counted.update(embedded(tmp_path / f"worker{number}.log"))
    assert counted.keys() == set(LINES)
    assert sum(counted.values()) - len(LINES) <= 4 * BATCH, "a batch a death is lost at most"


async def test_two_workers_share_the_documents(house: House, tmp_path: Path) -> None:
    texts = ["\n".join(f"document {number} ligne {line}" for line in range(3 * BATCH)) for number in range(8)]
    workers = [await worker(tmp_path, house.url, name, 0.2) for name in ("one", "two")]
    try:
        await until(lambda: len(house.rows("SELECT * FROM procrastinate_workers")) == 2, WAIT_S)
        documents = [(await house.add("p", text)).document for text in texts]
        for document in documents:
            await house.until("p", document.document_id, "succeeded")
    finally:
        for child in workers:
            await asyncio.to_thread(child.kill)
    logs = [embedded(tmp_path / f"{name}.log") for name in ("one", "two")]
    assert all(logs), "each did some"
    assert Counter(logs[0] + logs[1]) == Counter("\n".join(texts).splitlines()), "and nothing was done twice"


async def test_the_database_goes_and_comes_back_in_the_middle(
    migrated_url: str, door_of_migrated: Door, tmp_path: Path
) -> None:
    await door_of_migrated.open()
    async with open_projects(door_of_migrated.url, tmp_path, embedder=WordEmbedder(pause_s=0.05)) as house:
        direct = House(**{**{name: getattr(house, name) for name in house.__dataclass_fields__}, "url": migrated_url})
        document = (await house.add("p", TEXT)).document
        house.jobs.start()
        await until(lambda: len(texts_of(direct)) >= 5 * BATCH, WAIT_S)
        await door_of_migrated.shut()
        await until(lambda: house.database.state == "down", WAIT_S)
        await door_of_migrated.open()
        assert await house.database.wait_ready(WAIT_S)
        await house.until("p", document.document_id, "succeeded")
        assert texts_of(direct) == LINES
        assert sum(Counter(house.embedder.texts).values()) <= len(LINES) + 2 * BATCH
