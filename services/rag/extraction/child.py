"""The process that reads one document, its parts as lines on standard output.

Started by `extractor.py`, bounded and without secrets (`core.child_bounds`). It imports what the document's format
needs, nothing of the server.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from domain.documents import Block, PassageDraft
from services.rag.extraction.contract import (
    MAX_TITLE_CHARS,
    ExtractedPart,
    ExtractionLimits,
    Reader,
    Reading,
    UnreadableDocument,
    needs_more_memory,
    too_much_text,
)
from services.rag.extraction.sniffing import check_content
from services.rag.extraction.wire import MAX_PASSAGES, encode_last, encode_part
from services.rag.splitting import split

READERS = {
    "pdf": "pdf",
    "docx": "word",
    "pptx": "slides",
    "html": "web",
    "htm": "web",
    "md": "markdown",
    "markdown": "markdown",
    "txt": "plain",
    "csv": "table",
}
NO_TEXT = "the document holds no text that can be read: send one that does"
PAGES_A_PART = 20


def main() -> None:
    wanted = argparse.ArgumentParser(description="Read one document; started by the server itself.")
    wanted.add_argument("suffix", choices=READERS)
    wanted.add_argument("path", type=Path)
    wanted.add_argument("max_pages", type=int)
    wanted.add_argument("max_text_chars", type=int)
    wanted.add_argument("timeout_s", type=float)
    wanted.add_argument("memory_bytes", type=int)
    given = wanted.parse_args()
    limits = ExtractionLimits(given.max_pages, given.max_text_chars, given.timeout_s, given.memory_bytes)
    _say(_last_line(given.suffix, given.path, limits))
    os._exit(0)  # Tearing a large document down takes as long as reading it, for nobody.


def _last_line(suffix: str, path: Path, limits: ExtractionLimits) -> bytes:
    """Says the parts; answers what is to be said after them."""
    try:
        check_content(path, suffix)
        read: Reader = importlib.import_module(f"services.rag.extraction.{READERS[suffix]}").read
        reading = read(path, limits)
        passages = 0
        for part in parts(reading, limits):
            passages += len(part.passages)
            _say(encode_part(part))
        if not passages:
            raise UnreadableDocument(NO_TEXT)
    except UnreadableDocument as error:
        return encode_last(unreadable=error.reason)
    except MemoryError:
        return encode_last(unreadable=needs_more_memory(limits.memory_bytes))
    except BrokenPipeError:
        os._exit(1)  # The server is gone.
    except Exception as error:  # noqa: BLE001 — a broken file raises anything in the libraries that read it.
        return encode_last(broke=_where(error))
    return encode_last(end=True)


def parts(reading: Reading, limits: ExtractionLimits) -> Iterator[ExtractedPart]:
    """Some dozens of passages at a time, or twenty pages."""
    page = 0
    told = 0

    def seen(blocks: Iterable[Block]) -> Iterator[Block]:
        nonlocal page
        chars = 0
        for block in blocks:
            chars += len(block.text)
            if chars > limits.max_text_chars:
                raise UnreadableDocument(too_much_text(limits.max_text_chars))
            page = block.page or page
            yield block

    def part(passages: list[PassageDraft], done: int | None) -> ExtractedPart:
        title = reading.title[:MAX_TITLE_CHARS] if reading.title else None
        return ExtractedPart(tuple(passages), None if total is None else done, total, title)

    total = reading.pages_total
    ready: list[PassageDraft] = []
    for passage in split(seen(reading.blocks)):
        ready.append(passage)
        if len(ready) == MAX_PASSAGES or page >= told + PAGES_A_PART:
            told = page
            yield part(ready, max(page - 1, 0))  # The page at hand is not done.
            ready = []
    if ready or total is not None:
        yield part(ready, total)


def _say(line: bytes) -> None:
    """All of it; waits while the server is busy with what was said before."""
    unsaid = memoryview(line)
    while unsaid:
        unsaid = unsaid[os.write(sys.stdout.fileno(), unsaid) :]


def _where(error: Exception) -> str:
    """The error's kind and the last line of ours on its way: no content of the document."""
    at = error.__traceback__
    ours = ""
    while at:
        file = Path(at.tb_frame.f_code.co_filename)
        if file.parent == Path(__file__).parent:
            ours = f"{file.name}:{at.tb_lineno}"
        at = at.tb_next
    return f"{type(error).__name__} at {ours}"
