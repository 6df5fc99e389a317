"""Documents: stored with their job or not at all, recognised by their bytes, deleted without a trace."""

import asyncio
import hashlib
import io
from uuid import UUID

import psycopg
import pytest

from core.stored_files import CHUNK_BYTES
from domain.errors import DatabaseUnavailable, ModelUnavailable, NotFound, StorageFull, TooManyJobs
from services.rag.uploads import Upload
from tests.projects_for_tests import ALICE, BOB, MODEL, House, WordEmbedder, nowhere, open_projects

MARKER = "xylophonequartz"


async def test_an_upload_is_a_document_its_bytes_and_a_job(house: House) -> None:
    accepted = await house.add("p", "some text", name="note.md")
    document = accepted.document
    assert accepted.is_new
    assert (document.status, document.progress_percent, document.passages, document.error) == ("queued", 0, 0, None)
    assert (document.title, document.media_type, document.size_bytes) == ("note.md", "text/markdown", 9)
    (job,) = house.rows("SELECT id, args, status::text FROM procrastinate_jobs")
    assert job["args"] == {"document_id": str(document.document_id), "job_id": str(document.job_id)}
    assert house.rows("SELECT content FROM document_files") == [{"content": b"some text"}]
    assert house.rows("SELECT queue_job FROM documents") == [{"queue_job": job["id"]}]


async def test_large_bytes_are_kept_in_pieces_and_come_back_whole(house: House) -> None:
    content = (b"a line of text\n" * (CHUNK_BYTES // 5))[: 2 * CHUNK_BYTES + 17]
    upload = Upload("big.txt", "text/plain", len(content), hashlib.sha256(content).digest(), io.BytesIO(content))
    document = (await house.documents.add(upload, ALICE, "p", "req-1")).document
    sizes = house.rows("SELECT octet_length(content) AS size FROM document_files ORDER BY ordinal")
    assert [row["size"] for row in sizes] == [CHUNK_BYTES, CHUNK_BYTES, 17]
    path = house.ingest._directory.parent / "whole"
    await house.ingest._store.write_file(document.document_id, path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("done", [False, True], ids=["while it waits", "when it is done"])
async def test_the_same_bytes_are_recognised(house: House, done: bool) -> None:
    first = (await house.add("p", "some text")).document
    if done:
        await house.ingest.perform(str(first.document_id), str(first.job_id))
    again = await house.add("p", "some text", name="another-name.md")
    assert not again.is_new
    assert (again.document.document_id, again.document.job_id) == (first.document_id, first.job_id)
    assert again.document.status == ("succeeded" if done else "queued")
    assert len(house.rows("SELECT * FROM procrastinate_jobs")) == 1
    other = await house.add("q", "some text")
    assert other.document.document_id != first.document_id


async def test_the_same_bytes_sent_ten_times_at_once_are_one_document(house: House) -> None:
    accepted = await asyncio.gather(*(house.add("p", "some text") for _ in range(10)))
    assert len({each.document.document_id for each in accepted}) == 1
    assert sum(each.is_new for each in accepted) == 1
    assert len(house.rows("SELECT * FROM procrastinate_jobs")) == 1


async def test_a_caller_has_so_many_unfinished_documents_and_no_more(house: House) -> None:
    house.documents._most_unfinished = 2
    first = (await house.add("p", "one")).document
    await house.add("q", "two")
    with pytest.raises(TooManyJobs, match="DOCUMENTS_PER_CALLER"):
        await house.add("p", "three")
    with pytest.raises(TooManyJobs):
        await house.documents.check_room(ALICE)
    assert len(house.rows("SELECT * FROM documents")) == 2, "nothing of what was refused is left"
    assert not (await house.add("p", "one")).is_new, "what is there already is recognised"
    await house.add("b", "of another caller", principal=BOB)
    await house.ingest.perform(str(first.document_id), str(first.job_id))
    await house.add("p", "three")


async def test_of_many_sent_at_once_no_more_are_taken_than_may_be(house: House) -> None:
    house.documents._most_unfinished = 3
    sent = [house.add(f"p{number}", f"text {number}") for number in range(8)]
    outcomes = await asyncio.gather(*sent, return_exceptions=True)
    assert sum(isinstance(outcome, TooManyJobs) for outcome in outcomes) == 5
    assert len(house.rows("SELECT * FROM documents")) == 3


async def test_what_failed_is_tried_again_under_the_same_id(house: House) -> None:
    document_id = await house.take_in("p", "unreadable", name="wrong.pdf")
    failed = await house.get("p", document_id)
    assert (failed.status, failed.error) == ("failed", "the file is damaged: save it anew")
    again = await house.add("p", "unreadable", name="right.txt")
    assert again.is_new
    assert again.document.document_id == document_id
    assert again.document.job_id != failed.job_id
    assert (again.document.status, again.document.error, again.document.title) == ("queued", None, "right.txt")
    assert house.rows("SELECT content FROM document_files") == [{"content": b"unreadable"}]


async def test_a_page_of_the_list_and_how_many_there_are(house: House) -> None:
    added = [(await house.add("p", f"text {number}")).document.document_id for number in range(5)]
    await house.add("q", "elsewhere")
    found, total = await house.documents.find(ALICE, "p", limit=2, offset=1)
    assert ([document.document_id for document in found], total) == (added[1:3], 5)
    assert await house.documents.find(ALICE, "p", limit=2, offset=99) == ([], 5)


@pytest.mark.parametrize("stage", ["queued", "succeeded", "failed"])
async def test_deleting_leaves_no_trace(house: House, stage: str) -> None:
    kept = await house.take_in("p", "what stays")
    text = f"unreadable {MARKER}" if stage == "failed" else f"{MARKER} et autres mots"
    document = (await house.add("p", text, name=f"{MARKER}.txt")).document
    if stage != "queued":
        await house.ingest.perform(str(document.document_id), str(document.job_id))
    assert (await house.get("p", document.document_id)).status == stage
    assert nowhere(house.url, str(document.document_id))
    await house.documents.delete(ALICE, "p", str(document.document_id))
    assert nowhere(house.url, str(document.document_id)) == []
    assert nowhere(house.url, str(document.job_id)) == []
    assert nowhere(house.url, MARKER) == []
    assert {passage.document_id for passage in await house.search("p", MARKER)} == {kept}
    with pytest.raises(NotFound):
        await house.get("p", document.document_id)
    with pytest.raises(NotFound):
        await house.documents.delete(ALICE, "p", str(document.document_id))


async def test_deleting_the_last_document_leaves_the_project(house: House) -> None:
    document = await house.take_in("p", "text")
    await house.documents.delete(ALICE, "p", str(document))
    assert await house.documents.find(ALICE, "p", limit=5, offset=0) == ([], 0)


async def test_projects_are_listed_with_what_is_in_them(house: House) -> None:
    await house.take_in("p", "one\ntwo")
    await house.add("p", "three")
    await house.add("q", "four")
    await house.take_in("r", "of Bob", principal=BOB)
    found, total = await house.projects.find(ALICE, limit=1, offset=0)
    assert total == 2
    (first,) = found
    assert (first.project_id, first.documents, first.unfinished, first.failed) == ("p", 2, 1, 0)
    assert (first.passages, first.size_bytes, first.embedding_model) == (2, 12, MODEL)
    assert [one.project_id for one in (await house.projects.find(ALICE, limit=9, offset=1))[0]] == ["q"]


async def test_a_deleted_project_leaves_nothing_and_its_id_may_be_used_again(house: House) -> None:
    done = await house.take_in("p", f"{MARKER} one")
    waiting = (await house.add("p", f"{MARKER} two")).document
    await house.documents.delete_project(ALICE, "p")
    for trace in (str(done), str(waiting.document_id), str(waiting.job_id), MARKER):
        assert nowhere(house.url, trace) == []
    assert (
        house.rows("SELECT * FROM procrastinate_jobs WHERE args->>'document_id' = %s", str(waiting.document_id)) == []
    )
    with pytest.raises(NotFound):
        await house.documents.delete_project(ALICE, "p")
    assert await house.projects.find(ALICE, limit=9, offset=0) == ([], 0)
    again = await house.take_in("p", f"{MARKER} three")
    assert {one.document_id for one in await house.search("p", MARKER)} == {again}


async def test_deleting_a_project_stops_the_work_on_it_and_counts_what_was_consumed(house: House) -> None:
    house.embedder.gate = asyncio.Event()
    house.jobs.start()
    document = (await house.add("p", "\n".join(f"line {number}" for number in range(20)))).document
    await house.until("p", document.document_id, "running")
    await house.documents.delete_project(ALICE, "p")
    house.embedder.gate.set()
    await house.jobs.stop()
    assert nowhere(house.url, str(document.document_id)) == []


async def test_an_upload_beside_a_deletion_is_whole_or_gone(house: House) -> None:
    """Whoever comes second finds a project, or makes one."""
    for number in range(5):
        await house.add("p", f"first {number}")
        await asyncio.gather(
            house.documents.delete_project(ALICE, "p"),
            house.add("p", f"second {number}"),
            house.add("p", f"third {number}"),
        )
        owners = house.rows(
            "SELECT count(*) AS n FROM documents LEFT JOIN projects USING (project_id) WHERE owner IS NULL"
        )
        assert owners == [{"n": 0}]


@pytest.mark.parametrize("document_id", ["", "x", "5b8e7c1e", "\x00", "5b8e7c1e-5d0f-4a43-9a55-0d9b3a6a7f10"])
async def test_ids_of_nothing_are_not_found(house: House, document_id: str) -> None:
    await house.take_in("p", "text")
    with pytest.raises(NotFound):
        await house.documents.get_or_raise(ALICE, "p", document_id)
    with pytest.raises(NotFound):
        await house.documents.delete(ALICE, "p", document_id)


async def test_an_upload_that_nothing_could_embed_is_refused_and_leaves_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WordEmbedder, "unavailable_reason", lambda self, model: "no key")
    with pytest.raises(ModelUnavailable, match="no key"):
        await house.add("p", "text")
    assert house.rows("SELECT * FROM projects") == []


async def test_a_full_disk_of_the_database_is_told_and_leaves_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> int:
        raise psycopg.errors.DiskFull("could not extend file")

    monkeypatch.setattr(house.jobs, "defer", full)
    with pytest.raises(StorageFull):
        await house.add("p", "text")
    assert house.rows("SELECT * FROM projects") == []
    assert house.rows("SELECT * FROM documents") == []


async def test_without_the_database_everything_says_so_at_once(house: House) -> None:
    document = await house.take_in("p", "text")
    await house.database.close()
    async with asyncio.timeout(10):
        for deed in (
            house.add("p", "more"),
            house.get("p", document),
            house.documents.find(ALICE, "p", limit=1, offset=0),
            house.documents.delete(ALICE, "p", str(document)),
            house.projects.open_filter(ALICE, "p"),
        ):
            with pytest.raises(DatabaseUnavailable, match="try again"):
                await deed


async def test_a_projects_embedding_model_is_the_one_it_began_with(house: House, tmp_path: object) -> None:
    first = await house.take_in("p", "premier texte")
    async with open_projects(house.url, house.ingest._directory, model="text-embedding-3-small") as later:
        second = await later.take_in("p", "second texte")
        await later.take_in("q", "autre projet")
        models = later.rows("SELECT project_id, embedding_model FROM projects ORDER BY name")
        assert [row["embedding_model"] for row in models] == ["use-multilingual-v3", "text-embedding-3-small"]
        found: set[UUID] = {passage.document_id for passage in await later.search("p", "texte")}
        assert found == {first, second}
        assert [row.model for row in later.ledger.rows] == ["use-multilingual-v3", "text-embedding-3-small"]
