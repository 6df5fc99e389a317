"""Office files are ZIP archives of XML: what must hold before a library may open one."""

import zipfile
import zlib
from pathlib import Path

from services.rag.extraction.contract import UnreadableDocument

MAX_ENTRIES = 20_000
"""A presentation of 2,000 slides with notes has some 10,000 entries."""
MAX_INFLATED_BYTES = 512 << 20
"""All entries together; the libraries hold them in memory."""
MAX_XML_BYTES = 128 << 20
"""One part of XML: its tree takes some ten times as much memory."""
MAX_RATIO = 200
"""Office XML deflates to a tenth, very repetitive tables to a hundredth; a bomb to a thousandth."""
RATIO_FROM_BYTES = 8 << 20
"""A small entry may deflate as it likes."""

_READ_BYTES = 1 << 20
_DOCTYPE = b"<!doctype"
_ENTITY = b"<!entity"


def check_archive(path: Path, suffix: str) -> None:
    """Raises `UnreadableDocument` for a damaged archive, a bomb, or XML that declares entities."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_declared(entries)
            inflated = 0
            for entry in entries:
                inflated += _check_entry(archive, entry)
                if inflated > MAX_INFLATED_BYTES:
                    raise UnreadableDocument(_bomb(f"more than {MAX_INFLATED_BYTES >> 20} MB once inflated"))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, OverflowError) as error:
        raise UnreadableDocument(f"the .{suffix} file is damaged or cut short: send it anew") from error
    except RuntimeError as error:  # zipfile's word for an entry under a password.
        raise UnreadableDocument("the document is protected by a password: save it without one") from error


def _check_declared(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise UnreadableDocument(_bomb(f"{len(entries):,} entries, of {MAX_ENTRIES:,} allowed"))
    total = sum(entry.file_size for entry in entries)
    if total > MAX_INFLATED_BYTES:
        raise UnreadableDocument(_bomb(f"{total >> 20:,} MB once inflated, of {MAX_INFLATED_BYTES >> 20} MB allowed"))
    for entry in entries:
        _check_sizes(entry, entry.file_size)


def _check_sizes(entry: zipfile.ZipInfo, inflated: int) -> None:
    if inflated > RATIO_FROM_BYTES and inflated > MAX_RATIO * entry.compress_size:
        raise UnreadableDocument(_bomb(f"an entry inflates more than {MAX_RATIO} times"))
    if _is_xml(entry) and inflated > MAX_XML_BYTES:
        raise UnreadableDocument(_bomb(f"a part of {inflated >> 20:,} MB, of {MAX_XML_BYTES >> 20} MB allowed"))


def _check_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Inflates the entry, a piece at a time; its size as found. A wrong checksum raises `BadZipFile`."""
    size = 0
    before = b""
    with archive.open(entry) as content:
        while piece := content.read(_READ_BYTES):
            size += len(piece)
            _check_sizes(entry, size)
            if _is_xml(entry):
                # UTF-16 is read as ASCII by leaving its zeros out; the markup we look for is ASCII either way.
                seen = before + piece.replace(b"\x00", b"").lower()
                if _DOCTYPE in seen or _ENTITY in seen:
                    raise UnreadableDocument(
                        "the document declares XML entities, which Office never does: save it anew"
                    )
                before = seen[-len(_DOCTYPE) :]
    return size


def _is_xml(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.lower().endswith((".xml", ".rels", ".vml"))


def _bomb(found: str) -> str:
    return f"the document unpacks to too much ({found}): split it, or save it anew with smaller images"
