"""Documents: a search among 20,000 passages, and a PDF of 200 pages taken in while the server goes on answering."""

import asyncio
import contextlib
import hashlib
import json
import random
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection
from itertools import accumulate, product
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import psycopg

from benchmarks.measuring import Row, token_header
from benchmarks.processes import free_port, running, wait_for
from config.catalogue import load_catalogue
from config.settings import Settings
from core.database import Database
from core.embedded_postgres import EmbeddedPostgres
from core.migration import migrate
from domain.documents import PassageDraft, SearchFilter
from services.embeddings.local import MODEL_ID, LocalEmbedder
from services.embeddings.service import EmbeddingRequest, EmbeddingService
from services.rag.ingest_store import Embedded, IngestStore, Taken
from services.rag.search import Retriever

PASSAGES, DIMENSIONS, WORDS_A_PASSAGE = 20_000, 512, 120
DOCUMENTS = 20
QUESTIONS = 200
PAGES = 200
WAIT_S = 180.0
SYLLABLES = ("ba", "cor", "du", "fi", "gra", "ho", "jo", "lu", "mer", "no", "sa", "ti")
VOCABULARY = ["".join(syllables) for syllables in product(SYLLABLES, repeat=4)]
STOP_WORDS = frozenset(VOCABULARY[:100])
WEIGHTS = list(accumulate(1 / rank for rank in range(1, len(VOCABULARY) + 1)))
"""Words are as rare as in a language (Zipf): some are in most passages, most in few."""


def measure_documents(folder: Path) -> Iterator[Row]:
    """The rows of both."""
    yield from _measure_search(folder / "search")
    yield from _measure_ingest(folder / "ingest")


def _measure_search(folder: Path) -> Iterator[Row]:
    folder.mkdir()
    postgres = EmbeddedPostgres(folder / "pg")
    uri = postgres.join()
    try:
        migrate(uri, 5)
        took, embedding = asyncio.run(_search(uri, folder))
    finally:
        postgres.leave()
    median = statistics.median(took)
    yield Row(f"a search among {PASSAGES} passages of a project (median)", median * 1e3, "ms")
    yield Row("  times the embedding of its question by itself", median / statistics.median(embedding), "x", 10)
    yield Row("  the slowest twentieth begins at", statistics.quantiles(took, n=20)[-1] * 1e3, "ms")


async def _search(uri: str, folder: Path) -> tuple[list[float], list[float]]:
    """Seconds a search, its question's embedding included, and seconds the embedding by itself."""
    rng = random.Random(7)  # noqa: S311 - the same words each time
    database = Database(Settings(_env_file=None, data_dir=folder, database_url=uri))
    embedder = LocalEmbedder(timeout_s=30)
    await database.open()
    try:
        await database.wait_ready(30)
        await _fill(database, uri, rng)
        embeddings = EmbeddingService(load_catalogue(), {embedder.name: embedder})
        retriever = Retriever(database, embeddings)
        took: list[float] = []
        embedding: list[float] = []
        for number in range(QUESTIONS + 10):
            # The commonest stand for a language's stop words, which no question is searched by.
            question = f"{' '.join(word for word in _words(rng, 24) if word not in STOP_WORDS)} ?"
            started = time.perf_counter()
            await retriever.search(SearchFilter("p"), question, on_call=lambda _: None)
            ended = time.perf_counter()
            await embeddings.embed(EmbeddingRequest(MODEL_ID, (question,)), lambda _: None)
            if number >= 10:
                took.append(ended - started)
                embedding.append(time.perf_counter() - ended)
        return took, embedding
    finally:
        await embedder.close()
        await database.close()


async def _fill(database: Database, uri: str, rng: random.Random) -> None:
    store = IngestStore(database)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("INSERT INTO projects VALUES ('p', 'user', %s)", (MODEL_ID,))
        for _ in range(DOCUMENTS):
            taken = await _document(connection, store)
            for first in range(0, PASSAGES // DOCUMENTS, 100):
                batch = [_passage(rng, ordinal) for ordinal in range(first, first + 100)]
                await store.add(taken, batch, percent=1, pages=None, usage=[])
            await store.succeed(taken)
        # As autovacuum leaves the tables a minute after an ingest.
        connection.execute("VACUUM ANALYZE")


async def _document(connection: psycopg.Connection[tuple[Any, ...]], store: IngestStore) -> Taken:
    document, job = uuid4(), uuid4()
    connection.execute(
        "INSERT INTO documents (document_id, project_id, job_id, request_id, title, media_type, size_bytes, sha256)"
        " VALUES (%s, 'p', %s, 'bench', 'a.txt', 'text/plain', 1, %s)",
        (document, job, hashlib.sha256(document.bytes).digest()),
    )
    taken = await store.take(document, job)
    if taken is None:
        raise RuntimeError("the document is gone")
    return taken


def _passage(rng: random.Random, ordinal: int) -> Embedded:
    text = " ".join(_words(rng, WORDS_A_PASSAGE))
    vector = [rng.gauss(0, 1) for _ in range(DIMENSIONS)]
    length = sum(number * number for number in vector) ** 0.5
    return Embedded(PassageDraft(ordinal, text, (), None, 0, len(text)), [number / length for number in vector])


def _words(rng: random.Random, count: int) -> list[str]:
    return rng.choices(VOCABULARY, cum_weights=WEIGHTS, k=count)


def _measure_ingest(folder: Path) -> Iterator[Row]:
    folder.mkdir()
    port = free_port()
    env = {"DATA_DIR": str(folder / "data"), "PORT": str(port), "LOCAL_MODEL": "none", "LOG_LEVEL": "error"}
    with running(["app.py"], core=None, env=env, log=folder / "server.log") as server:
        wait_for(port, "/health", folder / "server.log")
        headers = dict(token_header(port))
        started, document = _send(port, headers)
        health_s, peak_bytes = _watch(port, headers, server, document)
        yield Row(f"a PDF of {PAGES} pages taken in", time.perf_counter() - started, "s", 60)
        yield Row("  the most memory, of the server and its reader", peak_bytes / 1e6, "MB", 600)
        slowest = statistics.quantiles(health_s, n=100)[-1]
        yield Row("  99 % of /health meanwhile within", slowest * 1e3, "ms", 50)


def _send(port: int, headers: dict[str, str]) -> tuple[float, UUID]:
    """When it was accepted, and the document. Waits for the database, which begins with the server."""
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n' + _pdf() + b"\r\n--b--\r\n"
    url = f"http://127.0.0.1:{port}/projects/p/documents"
    request = urllib.request.Request(url, body, {**headers, "Content-Type": "multipart/form-data; boundary=b"})
    deadline = time.perf_counter() + WAIT_S
    while time.perf_counter() < deadline:
        with contextlib.suppress(urllib.error.URLError):
            started = time.perf_counter()
            with urllib.request.urlopen(request, timeout=30) as answer:
                return started, UUID(json.load(answer)["document_id"])
        time.sleep(0.2)
    raise RuntimeError("the server takes no document")


def _watch(port: int, headers: dict[str, str], server: psutil.Process, document: UUID) -> tuple[list[float], int]:
    """Seconds of each /health until the document is done, and the most memory seen."""
    took: list[float] = []
    peak = 0
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    deadline = time.perf_counter() + WAIT_S
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        _get(connection, "/health", {})
        took.append(time.perf_counter() - started)
        if len(took) % 20 == 0:
            peak = max(peak, sum(map(_memory, [server, *server.children(recursive=True)])))
            status = json.loads(_get(connection, f"/projects/p/documents/{document}", headers))["status"]
            if status == "failed":
                raise RuntimeError("the document failed")
            if status == "succeeded":
                return took, peak
        time.sleep(0.005)
    raise RuntimeError(f"the document was not done in {WAIT_S:g} s")


def _get(connection: HTTPConnection, path: str, headers: dict[str, str]) -> bytes:
    connection.request("GET", path, headers=headers)
    return connection.getresponse().read()


def _memory(process: psutil.Process) -> int:
    """Its own. The database is not counted: it may be anywhere, and its processes share what they map."""
    with contextlib.suppress(psutil.Error):
        return 0 if process.name() == "postgres" else int(process.memory_info().rss)
    return 0


def _pdf() -> bytes:
    """A PDF whose pages have 40 lines of 14 words, about 3,600 characters: four passages."""
    rng = random.Random(3)  # noqa: S311 - the same words each time
    parts = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    parts.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    kids = []
    for _ in range(PAGES):
        lines = "".join(f"({' '.join(_words(rng, 14))}.) Tj T*\n" for _ in range(40))
        content = f"BT /F1 9 Tf 40 800 Td 18 TL\n{lines}ET".encode()
        parts.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        kids.append(len(parts) + 1)
        parts.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % len(parts)
        )
    parts[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (PAGES, b" ".join(b"%d 0 R" % kid for kid in kids))
    body, offsets = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(parts) + 1, len(body))
    return body + b"xref\n0 %d\n0000000000 65535 f \n%s%s" % (len(parts) + 1, table, end)
