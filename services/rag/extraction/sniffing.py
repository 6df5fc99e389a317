"""What a file is, by its content: whether that agrees with its name, and what it is instead."""

import zipfile
from pathlib import Path

from services.rag.extraction.contract import UnreadableDocument
from services.rag.extraction.text import wide_encoding

HEAD_BYTES = 8_192
PDF_HEADER_WITHIN_BYTES = 1_024
"""Acrobat's own tolerance (PDF 1.7, implementation note 13)."""
MAX_CONTROL_SHARE = 0.1

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"BM", "a bitmap image"),
    (b"RIFF", "an image, a sound or a film"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a Windows program"),
    (b"SQLite format 3", "a database"),
    (b"ID3", "a sound"),
    (b"OggS", "a sound"),
    (b"{\\rtf", "an RTF document"),
    (b"%!PS", "a PostScript file"),
)
_SHORT_MAGIC_IS_TEXT = (b"BM", b"MZ", b"GIF8", b"RIFF", b"BZh", b"ID3", b"Rar!", b"OggS", b"%!PS")
"""A text may begin with these letters: they count only where the content is binary, or should be."""
_IN_ARCHIVE = (
    ("word/document.xml", "docx", "a Word document (.docx)"),
    ("ppt/presentation.xml", "pptx", "a PowerPoint presentation (.pptx)"),
    ("xl/workbook.xml", "xlsx", "an Excel workbook (.xlsx)"),
    ("content.xml", "odf", "an OpenDocument file"),
    ("META-INF/container.xml", "epub", "an EPUB book"),
    ("META-INF/MANIFEST.MF", "jar", "a Java archive"),
)
_WANTED = {"pdf": "pdf", "docx": "docx", "pptx": "pptx"}
_OFFICE_PROGRAMS = (("WordDocument", "Word"), ("PowerPoint Document", "PowerPoint"), ("Workbook", "Excel"))


def check_content(path: Path, suffix: str) -> None:
    """Raises `UnreadableDocument` when the content is not what the name says."""
    size = path.stat().st_size
    if not size:
        raise UnreadableDocument("the file is empty: send the document anew")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(_OLE):
        raise UnreadableDocument(_ole(path))
    kind, looks_like = _kind(head, path)
    wanted = _WANTED.get(suffix, "text")
    if kind == wanted and not (suffix == "csv" and looks_like == "a web page (.html)"):
        return
    if kind == "zip, cut short" and wanted in ("docx", "pptx"):
        raise UnreadableDocument(f"the .{suffix} file is damaged or cut short: send it anew")
    raise UnreadableDocument(
        f"the file is named .{suffix}, but its content looks like {looks_like}: "
        "give it the name of its format, or save it in a format that can be read (PDF, .docx, .pptx, text)"
    )


def _kind(head: bytes, path: Path) -> tuple[str, str]:
    """The kind that readers know it by ("" for none), and what to call it."""
    if b"%PDF-" in head[:PDF_HEADER_WITHIN_BYTES]:
        return "pdf", "a PDF"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _archive(path)
    binary = _is_binary(head)
    for magic, name in _MAGIC:
        if head.startswith(magic) and (binary or magic not in _SHORT_MAGIC_IS_TEXT):
            return "", name
    if binary:
        return "", "a film or a sound" if head[4:8] == b"ftyp" else "binary content"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower()
    return "text", "a web page (.html)" if start.startswith((b"<!doctype html", b"<html")) else "plain text"


def _archive(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, OverflowError):
        return "zip, cut short", "a ZIP archive that is damaged"
    for name, kind, looks_like in _IN_ARCHIVE:
        if name in names:
            return kind, looks_like
    return "zip", "a ZIP archive"


def _ole(path: Path) -> str:
    """Office's format before 2007, which is also the envelope of today's encrypted files."""
    content = path.read_bytes()
    if "EncryptedPackage".encode("utf-16-le") in content:
        return "the document is protected by a password: save it without one and send that"
    for stream, program in _OFFICE_PROGRAMS:
        if stream.encode("utf-16-le") in content:
            return f"this is a document of {program} before 2007: save it as .docx, .pptx or PDF and send that"
    return "this is an old Office or other OLE file: save it as .docx, .pptx or PDF and send that"


def _is_binary(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")) or wide_encoding(head):
        return False
    control = sum(byte < 9 or 13 < byte < 27 for byte in head)
    return 0 in head or control > MAX_CONTROL_SHARE * len(head)
