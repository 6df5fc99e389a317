"""Projects on a real PostgreSQL, with an embedder that needs no model and a reader that needs no process."""

import asyncio
import hashlib
import io
import itertools
import math
import os
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from core.database import Database
from core.embedded_postgres import EmbeddedPostgres
from core.jobs import Jobs
from core.migration import migrate
from domain.documents import Document, Passage, PassageDraft, SearchFilter
from domain.principals import Principal
from services.embeddings.embedder import BatchLimits, EmbeddingCall, Vector
from services.embeddings.runs import EmbeddingRuns
from services.embeddings.service import EmbeddingService
from services.rag.documents import Accepted, Documents
from services.rag.extraction.extractor import ExtractedPart, ExtractionLimits, UnreadableDocument
from services.rag.ingest import JOB, Ingest
from services.rag.ingest_store import IngestStore
from services.rag.projects import Projects
from services.rag.search import Retriever
from services.rag.uploads import Upload, media_type_of
from tests.house_for_tests import CATALOGUE, RecordingLedger, the_accountant
from tests.postgres_for_tests import WAIT_S, Door, settings_for

MODEL = "use-multilingual-v3"
DIMENSIONS = 512
ALICE, BOB = Principal("alice"), Principal("bob")
_numbers = itertools.count()


@pytest.fixture(scope="session")
def _migrated(postgres: EmbeddedPostgres) -> str:
    """A database to copy: migrating one takes a second."""
    with psycopg.connect(postgres.uri, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE migrated_{os.getpid()}")
    migrate(postgres.uri.replace("/postgres?", f"/migrated_{os.getpid()}?"), 5)
    return f"migrated_{os.getpid()}"


@pytest.fixture
def migrated_url(postgres: EmbeddedPostgres, _migrated: str) -> Iterator[str]:
    """A database of its own, with our schema and nothing in it."""
    name = f"{_migrated}_{next(_numbers)}"
    with psycopg.connect(postgres.uri, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {_migrated}")
        yield postgres.uri.replace("/postgres?", f"/{name}?")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def door_of_migrated(migrated_url: str) -> AsyncIterator[Door]:
    """The way to that database, which can be shut. Shut at first."""
    door = Door(migrated_url)
    yield door
    await door.close()


@dataclass
class WordEmbedder:
    """A vector is the sum of its words' own: texts that share words are near. `failures` are raised first, in order."""

    name: str = "local"
    batch: BatchLimits = field(default_factory=lambda: BatchLimits(max_texts=64, max_chars=1_000_000))
    failures: list[Exception] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    log: Path | None = None
    pause_s: float = 0.0
    gate: asyncio.Event | None = None
    is_blind: bool = False
    """All texts mean the same: only their words tell them apart."""

    def unavailable_reason(self, model: Any) -> str | None:
        return None

    async def embed(self, call: EmbeddingCall) -> list[Vector]:
        if self.failures:
            raise self.failures.pop(0)
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(self.pause_s)
        self.texts += call.texts
        if self.log is not None:
            with self.log.open("a") as log:
                log.writelines(f"{text!r}\n" for text in call.texts)
        call.input_tokens = sum(len(text.split()) for text in call.texts)
        return [vector_of("" if self.is_blind else text) for text in call.texts]


def vector_of(text: str) -> Vector:
    sums = [1e-3] * DIMENSIONS
    for word in text.lower().split():
        digest = hashlib.shake_128(word.encode("utf-8", "replace")).digest(DIMENSIONS)
        for place, byte in enumerate(digest):
            sums[place] += byte - 127.5
    length = math.sqrt(sum(number * number for number in sums)) or 1.0
    return array("f", (number / length for number in sums))


async def lines_of(path: Path, filename: str, limits: ExtractionLimits) -> AsyncGenerator[ExtractedPart]:
    """The stand-in for reading: a line is a passage, `# …` a heading, ten lines a page."""
    text = path.read_text()  # noqa: ASYNC240 - a few lines
    if text.startswith("unreadable"):
        raise UnreadableDocument("the file is damaged: save it anew")
    start, heading, ordinal = 0, "", 0
    pages = math.ceil(sum(not line.startswith("# ") for line in text.splitlines()) / 10)
    for line in text.splitlines():
        if line.startswith("# "):
            heading = line[2:]
        else:
            page = ordinal // 10 + 1
            draft = PassageDraft(ordinal, line, (heading,) if heading else (), page, start, start + len(line))
            yield ExtractedPart((draft,), page, pages, None)
            ordinal += 1
        start += len(line) + 2
        await asyncio.sleep(0)


@dataclass
class House:
    """Everything that a project needs, and what its embeddings left in the ledger."""

    url: str
    database: Database
    jobs: Jobs
    projects: Projects
    documents: Documents
    retriever: Retriever
    ingest: Ingest
    embedder: WordEmbedder
    ledger: RecordingLedger

    async def add(self, project: str, text: str, *, principal: Principal = ALICE, name: str = "note.txt") -> Accepted:
        content = text.encode()
        upload = Upload(name, media_type_of(name), len(content), hashlib.sha256(content).digest(), io.BytesIO(content))
        return await self.documents.add(upload, principal, project, "req-1")

    async def take_in(self, project: str, text: str, *, principal: Principal = ALICE, name: str = "note.txt") -> UUID:
        """An upload, and its job done here and now."""
        document = (await self.add(project, text, principal=principal, name=name)).document
        await self.ingest.perform(str(document.document_id), str(document.job_id))
        return document.document_id

    async def get(self, project: str, document_id: UUID, principal: Principal = ALICE) -> Document:
        return await self.documents.get_or_raise(principal, project, str(document_id))

    async def search(
        self, project: str, question: str, sources: Sequence[UUID] = (), *, k: int = 5, principal: Principal = ALICE
    ) -> list[Passage]:
        allowed = await self.projects.open_filter(principal, project, [str(source) for source in sources])
        assert allowed is not None
        return await self.retriever.search(allowed, question, k=k, on_call=lambda _: None)

    async def until(self, project: str, document_id: UUID, status: str) -> Document:
        async with asyncio.timeout(WAIT_S):
            while (document := await self.get(project, document_id)).status != status:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return document

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, row_factory=dict_row, autocommit=True) as connection:
            return connection.execute(query, values).fetchall()


@asynccontextmanager
async def open_projects(
    url: str, directory: Path, *, embedder: WordEmbedder | None = None, model: str = MODEL, ledger: Any = None
) -> AsyncIterator[House]:
    """The jobs are not started: a test does them, or starts them."""
    database = Database(settings_for(directory, url))
    embedder = embedder or WordEmbedder()
    embeddings = EmbeddingService(CATALOGUE, {"local": embedder, "openai": embedder})
    ledger = ledger or RecordingLedger()
    runs = EmbeddingRuns(embeddings, the_accountant(), ledger, run_timeout_s=30)
    jobs = Jobs(database)
    ingest = Ingest(
        IngestStore(database), embeddings, runs, extract=lines_of, limits=ExtractionLimits(), directory=directory / "f"
    )
    jobs.register(JOB, ingest.perform)
    documents = Documents(database, jobs, embeddings, runs, embedding_model=model)
    house = House(
        url, database, jobs, Projects(database), documents, Retriever(database, embeddings), ingest, embedder, ledger
    )
    await database.open()
    try:
        assert await database.wait_ready(WAIT_S)
        yield house
    finally:
        await jobs.stop()
        await database.close()


@pytest.fixture
async def house(migrated_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_projects(migrated_url, tmp_path) as opened:
        yield opened


def nowhere(url: str, needle: str, but: Callable[[str], bool] = lambda table: False) -> list[str]:
    """The tables that hold this text anywhere in a row."""
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        found = []
        for (table,) in tables:
            row = connection.execute(
                f"SELECT count(*) FROM {table} AS t WHERE position(%s IN t::text) > 0",  # noqa: S608
                (needle,),
            ).fetchone()
            if row is not None and row[0] and not but(table):
                found.append(table)
    return found


def filter_of(project: str, *sources: UUID) -> SearchFilter:
    return SearchFilter(project, sources)
