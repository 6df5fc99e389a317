"""The library: projects, their documents, the search in them and the jobs behind them, built and connected."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from config.settings import Settings
from core.database import Database
from core.jobs import Jobs
from services.embeddings.runs import EmbeddingRuns
from services.embeddings.service import EmbeddingService
from services.job_attempts import remove_left_files
from services.rag.documents import Documents
from services.rag.extraction.extractor import ExtractionLimits, extract_passages
from services.rag.ingest import JOB, Ingest
from services.rag.ingest_store import IngestStore
from services.rag.projects import Projects
from services.rag.search import Retriever
from services.rag.search_runs import SearchRuns


@dataclass(frozen=True, slots=True)
class Library:
    """`files` is where uploads and the copies that jobs read from lie for a while."""

    projects: Projects
    documents: Documents
    retriever: Retriever
    searches: SearchRuns
    jobs: Jobs
    files: Path

    async def start_jobs(self) -> None:
        """Begin to do the jobs of the queue in this process."""
        await asyncio.to_thread(remove_left_files, self.files)
        self.jobs.start()


def create_library(
    settings: Settings, database: Database, embeddings: EmbeddingService, runs: EmbeddingRuns
) -> Library:
    """Not yet started: a server whose jobs are done elsewhere never starts them."""
    files = settings.data_dir / "files"
    jobs = Jobs(database, concurrency=settings.job_concurrency)
    ingest = Ingest(
        IngestStore(database),
        embeddings,
        runs,
        extract=extract_passages,
        limits=ExtractionLimits(max_pages=settings.max_document_pages),
        directory=files,
    )
    retriever = Retriever(database, embeddings)
    jobs.register(JOB, ingest.perform)
    return Library(
        projects=Projects(database),
        documents=Documents(
            database,
            jobs,
            embeddings,
            runs,
            embedding_model=settings.embedding_model,
            most_unfinished=settings.documents_per_caller,
        ),
        retriever=retriever,
        searches=SearchRuns(retriever, runs),
        jobs=jobs,
        files=files,
    )
