"""How often a search finds the passage that answers: our own questions, French and English, on five documents.

The documents are read, cut and embedded as the server does it, and searched in one project of its PostgreSQL.
"""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

import psycopg

from benchmarks.measuring import Row
from benchmarks.question_set import Question, collapsed, document_paths, load_questions
from config.catalogue import load_catalogue
from config.settings import Settings
from core.database import Database
from core.embedded_postgres import EmbeddedPostgres
from core.migration import migrate
from domain.documents import Passage, SearchFilter
from services.embeddings.local import MODEL_ID, LocalEmbedder
from services.embeddings.service import EmbeddingRequest, EmbeddingService
from services.rag.extraction.extractor import ExtractionLimits, extract_passages
from services.rag.ingest_store import Embedded, IngestStore, words_of
from services.rag.search import Retriever

FIRST = (1, 3, 5)


def measure_recall(folder: Path) -> Iterator[Row]:
    """The share of the answerable questions whose passage is among the first one, three and five."""
    folder.mkdir()
    postgres = EmbeddedPostgres(folder / "pg")
    uri = postgres.join()
    try:
        migrate(uri, 5)
        ranks = asyncio.run(_ranks(uri, folder))
    finally:
        postgres.leave()
    asked = len(ranks)
    for first in FIRST:
        found = sum(rank is not None and rank <= first for rank in ranks) / asked
        what = f"recall@{first} of {asked} questions on five documents"
        yield Row(what, found, "", at_least=0.9 if first == 5 else None)


async def _ranks(uri: str, folder: Path) -> list[int | None]:
    """Where each question's passage stands, from 1; `None` when it is not among the first five."""
    database = Database(Settings(_env_file=None, data_dir=folder, database_url=uri))
    embedder = LocalEmbedder(timeout_s=60)
    embeddings = EmbeddingService(load_catalogue(), {embedder.name: embedder})
    await database.open()
    try:
        await database.wait_ready(30)
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("INSERT INTO projects VALUES ('p', 'user', %s)", (MODEL_ID,))
            for path in document_paths():
                await _take_in(path, connection, IngestStore(database), embeddings)
        retriever = Retriever(database, embeddings)
        ranks = []
        for question in load_questions():
            if question.answerable:
                found = await retriever.search(
                    SearchFilter("p"), question.question, k=max(FIRST), on_call=lambda _: None
                )
                ranks.append(_rank(question, found))
        return ranks
    finally:
        await embedder.close()
        await database.close()


def _rank(question: Question, found: list[Passage]) -> int | None:
    evidence = collapsed(question.evidence or "").casefold()
    ranks = (rank for rank, passage in enumerate(found, 1) if evidence in collapsed(passage.text).casefold())
    return next(ranks, None)


async def _take_in(
    path: Path, connection: psycopg.Connection[tuple[object, ...]], store: IngestStore, embeddings: EmbeddingService
) -> None:
    document, job = uuid4(), uuid4()
    connection.execute(
        "INSERT INTO documents (document_id, project_id, job_id, request_id, title, media_type, size_bytes, sha256)"
        " VALUES (%s, 'p', %s, 'bench', %s, 'text/plain', 1, %s)",
        (document, job, path.name, document.bytes),
    )
    taken = await store.take(document, job)
    if taken is None:
        raise RuntimeError("the document is gone")
    async with aclosing(extract_passages(path, path.name, ExtractionLimits())) as parts:
        async for part in parts:
            texts = tuple(words_of(draft) for draft in part.passages)
            answer = await embeddings.embed(EmbeddingRequest(MODEL_ID, texts))
            batch = [Embedded(draft, list(vector)) for draft, vector in zip(part.passages, answer.vectors, strict=True)]
            await store.add(taken, batch, percent=1, pages=None, usage=[])
    await store.succeed(taken)
