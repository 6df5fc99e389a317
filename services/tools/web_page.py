"""The tool `fetch_page`: the text of a public page or document, behind the guard against our own network."""

import asyncio
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

from langchain_core.tools import BaseTool, StructuredTool, ToolException

from core.private_files import open_private
from core.safe_fetch import PUBLIC_INTERNET, Fetched, Network, fetch_public
from domain.errors import FetchRefused
from services.rag.extraction.extractor import ExtractionLimits, UnreadableDocument, extract_passages

MAX_BYTES = 5_000_000
MAX_TEXT_CHARS = 8_000
"""About 2,000 tokens: a small model's context holds it, with the conversation."""
TIMEOUT_S = 15.0
SUFFIXES = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/plain": "txt",
    "text/markdown": "md",
    "text/csv": "csv",
    "application/pdf": "pdf",
}
LIMITS = ExtractionLimits(max_pages=200, max_text_chars=2_000_000, timeout_s=TIMEOUT_S)


def create_fetch_page(network: Network = PUBLIC_INTERNET) -> BaseTool:
    """The tool as models are shown it."""

    async def fetch_page(url: Annotated[str, "The https:// address of the page."]) -> str:
        """Reads the text of a public web page or PDF."""
        try:
            fetched = await fetch_public(
                url, max_bytes=MAX_BYTES, timeout_s=TIMEOUT_S, content_types=frozenset(SUFFIXES), network=network
            )
            return await _text(fetched)
        except FetchRefused as refused:
            raise ToolException(refused.message) from None
        except UnreadableDocument as unreadable:
            raise ToolException(f"the page cannot be read: {unreadable.reason}") from None

    return StructuredTool.from_function(
        coroutine=fetch_page, name="fetch_page", handle_tool_error=True, metadata={"asked_by": r"https?://"}
    )


def _write(path: Path, content: bytes) -> None:
    with open_private(path) as file:
        file.write(content)


async def _text(fetched: Fetched) -> str:
    """The beginning of the text, read in a process of its own as every stranger's document is."""
    suffix = SUFFIXES[fetched.content_type]
    with tempfile.TemporaryDirectory(prefix="routeur-page-") as folder:
        path = Path(folder) / f"page.{suffix}"
        await asyncio.to_thread(_write, path, fetched.content)
        passages: list[str] = []
        async with aclosing(extract_passages(path, path.name, LIMITS)) as parts:
            async for part in parts:
                passages += [passage.text for passage in part.passages]
                if sum(map(len, passages)) > MAX_TEXT_CHARS:
                    break
    text = "\n\n".join(passages)
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]}…\n(The page goes on.)"
