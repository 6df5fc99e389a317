"""A project's documents, the passages they are cut into, and what a search may look at."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

DocumentStatus = Literal["queued", "running", "succeeded", "failed"]
BlockKind = Literal["heading", "paragraph", "list", "table", "code"]

EXCERPT_CHARS = 300


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a document as its author structured it, in reading order.

    A table's text has a line a row, its cells joined by " | ". `page` counts from 1 (a slide is a page) and is `None`
    where the format knows no pages; `level` counts from 1 and is set on headings alone.
    """

    kind: BlockKind
    text: str
    page: int | None = None
    level: int | None = None


@dataclass(frozen=True, slots=True)
class PassageDraft:
    """A passage before it is stored. `start_char` and `end_char` are offsets into the document's text.

    The document's text is its blocks' texts in order, joined by an empty line; `headings` lead to the passage, the
    outermost first; `page` is where it begins.
    """

    ordinal: int
    text: str
    headings: tuple[str, ...]
    page: int | None
    start_char: int
    end_char: int


@dataclass(frozen=True, slots=True)
class Document:
    """One file of a project. `pages` is `None` where the format knows none, or while it is not known yet."""

    document_id: UUID
    project_id: str
    job_id: UUID
    title: str
    media_type: str
    size_bytes: int
    status: DocumentStatus
    progress_percent: float
    pages: int | None
    passages: int
    error: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Project:
    """A project as its owner sees it, with what is in it. `unfinished` counts the documents that wait or are read."""

    project_id: str
    embedding_model: str
    created_at: datetime
    documents: int
    unfinished: int
    failed: int
    passages: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """What a search may look at. There is none without a project; no `sources` means all of its documents.

    Made by `Projects.open_filter`, which has checked that the project is the caller's and the documents are in it.
    `project_id` is the server's key of the project, and `name` the id that its owner uses, which others may use too.
    """

    project_id: str
    sources: tuple[UUID, ...] = ()
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that a search found. `score` is the cosine similarity to the question, from -1 to 1."""

    document_id: UUID
    title: str
    ordinal: int
    text: str
    headings: tuple[str, ...]
    page: int | None
    start_char: int
    end_char: int
    score: float

    @property
    def excerpt(self) -> str:
        """The beginning of the passage, on one line, as answers cite it."""
        line = " ".join(self.text.split())
        return line if len(line) <= EXCERPT_CHARS else line[: EXCERPT_CHARS - 1].rstrip() + "…"
