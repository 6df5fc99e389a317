"""Text as it is kept: decoded from any usual encoding, without the characters that are none."""

import re
import unicodedata
from pathlib import Path

from services.rag.extraction.contract import ExtractionLimits, UnreadableDocument, too_much_text

MAX_BYTES_A_CHAR = 4
SAMPLE_BYTES = 1 << 18
"""Enough to tell an encoding by."""

_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_FRENCH_IN_CP1252 = frozenset("éèêëàâäùûüçîïôöœæÉÈÊÀÂÙÇÎÔŒ’‘“”«»°€–—… ñóíáúßÄÖÜ²³§·".encode("cp1252"))
_CP1252_SHARE = 0.9

# Control characters but tab and line feed, halves of surrogate pairs, and marks that show nothing: soft hyphen, zero
# width spaces and joiners of Latin text, byte order marks, directions. PostgreSQL refuses NUL, JSON the halves.
_NOTHING = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u2060\u200e\u200f\u202a-\u202e\ufeff\ufffe\uffff\ud800-\udfff]"
)
_LINE_BREAKS = re.compile("\r\n|[\r\x85\u2028\u2029]")
_SPACES = re.compile("[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"})


def clean(text: str) -> str:
    """Composed letters, line feeds as line breaks, nothing that shows nothing. Spaces stay as they are."""
    text = _NOTHING.sub("", _LINE_BREAKS.sub("\n", text))
    return unicodedata.normalize("NFC", text.translate(_LIGATURES))


def one_line(text: str) -> str:
    """Cleaned, on a single line, with single spaces."""
    return _SPACES.sub(" ", clean(text).replace("\n", " ")).strip()


def lines_of(text: str) -> str:
    """Cleaned, each line stripped and with single spaces, without empty lines."""
    lines = (_SPACES.sub(" ", line).strip() for line in clean(text).split("\n"))
    return "\n".join(line for line in lines if line)


def row_of(cells: list[str]) -> str:
    """A line of a table."""
    return " | ".join(cells).strip()


def read_text(path: Path, limits: ExtractionLimits) -> str:
    """A text file's whole content, cleaned."""
    if path.stat().st_size > limits.max_text_chars * MAX_BYTES_A_CHAR:
        raise UnreadableDocument(too_much_text(limits.max_text_chars))
    return clean(decode(path.read_bytes()))


def decode(content: bytes) -> str:
    """UTF-8, what its byte order mark says, or what it looks like: Windows' Western code page before any other."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    if wide := wide_encoding(content):
        return content.decode(wide, errors="replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode(_narrow_encoding(content[:SAMPLE_BYTES]), errors="replace")


def wide_encoding(content: bytes) -> str | None:
    """UTF-16 without its mark: every second byte of Western text is zero."""
    sample = content[:4096]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if odd > len(sample) * 0.3 and even < odd * 0.05:
        return "utf-16-le"
    if even > len(sample) * 0.3 and odd < even * 0.05:
        return "utf-16-be"
    return None


def _narrow_encoding(sample: bytes) -> str:
    beyond_ascii = [byte for byte in sample if byte >= 0x80]
    usual = sum(byte in _FRENCH_IN_CP1252 for byte in beyond_ascii)
    if beyond_ascii and usual >= _CP1252_SHARE * len(beyond_ascii):
        return "cp1252"
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    return best.encoding if best else "cp1252"
