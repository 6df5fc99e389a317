"""What goes into an extraction and what comes out of it: limits, parts, and files that cannot be read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from domain.documents import Block, PassageDraft

SUPPORTED_SUFFIXES = frozenset({"pdf", "docx", "pptx", "html", "htm", "md", "markdown", "txt", "csv"})
MAX_TITLE_CHARS = 300


@dataclass(frozen=True, slots=True)
class ExtractionLimits:
    """What one document may take. `timeout_s` counts the time spent waiting for the reader, not its consumer's own."""

    max_pages: int = 2_000
    max_text_chars: int = 20_000_000
    timeout_s: float = 600.0
    memory_bytes: int = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ExtractedPart:
    """The next passages of a document, in order. `pages_*` are `None` where the format knows no pages."""

    passages: tuple[PassageDraft, ...]
    pages_done: int | None
    pages_total: int | None
    title: str | None


class UnreadableDocument(Exception):
    """The document cannot be read; `reason` is safe to show: what is wrong, and what would work."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Reading:
    """An open document: its blocks are read as they are asked for."""

    blocks: Iterator[Block]
    pages_total: int | None = None
    title: str | None = None


Reader = Callable[[Path, ExtractionLimits], Reading]
"""Opens a file of one format; it and the blocks' iterator raise `UnreadableDocument`."""


def needs_more_memory(limit_bytes: int) -> str:
    return (
        f"reading this document needs more memory than the {limit_bytes / 1e6:,.0f} MB allowed: "
        "split it, or save it anew with smaller images"
    )


def too_deep(limit: int) -> str:
    return f"the document is nested deeper than the {limit:,} levels allowed: save it anew with less nesting"


def too_much_text(limit_chars: int) -> str:
    return f"the document holds more than the {limit_chars:,} characters of text allowed: split it and send the parts"
