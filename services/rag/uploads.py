"""An uploaded file before it is a document: what it is called, what it is, and where its bytes wait."""

import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from domain.errors import BadRequest, UnsupportedMedia

MAX_TITLE = 255
MEDIA_TYPES = {
    "csv": "text/csv",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "htm": "text/html",
    "html": "text/html",
    "markdown": "text/markdown",
    "md": "text/markdown",
    "pdf": "application/pdf",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "txt": "text/plain",
}
"""By the end of the name: what browsers send beside it differs from one to the next."""


@dataclass(frozen=True, slots=True)
class Upload:
    """`file` holds the bytes and is open for reading; `sha256` is their digest."""

    title: str
    media_type: str
    size_bytes: int
    sha256: bytes
    file: BinaryIO


def title_of(filename: str) -> str:
    """The name alone, fit to be shown: no folders of the sender's, nothing that moves a cursor. It keeps its end."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    shown = "".join(char for char in unicodedata.normalize("NFC", name) if char.isprintable()).strip()
    if not shown.strip("."):
        raise BadRequest("file: it has no name; send one with its end, such as `report.pdf`")
    path = PurePosixPath(shown)
    return shown if len(shown) <= MAX_TITLE else path.stem[: MAX_TITLE - len(path.suffix[:20])] + path.suffix[:20]


def media_type_of(title: str) -> str:
    """Raises `UnsupportedMedia` naming what can be read."""
    suffix = PurePosixPath(title).suffix.lower().removeprefix(".")
    media_type = MEDIA_TYPES.get(suffix)
    if media_type is None:
        known = ", ".join(f".{name}" for name in MEDIA_TYPES)
        raise UnsupportedMedia(f"file: {title[:80]!r} cannot be read; send one of {known}")
    return media_type
