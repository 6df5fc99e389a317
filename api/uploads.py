"""One uploaded file, read from the wire to the disk: its bytes are never in memory whole."""

import asyncio
import errno
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from domain.errors import BadRequest, PayloadTooLarge, StorageFull, UnsupportedMedia

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "file"
WRITE_BYTES = 1_048_576
MAX_HEADER_BYTES = 16_384
ENVELOPE_BYTES = 65_536
"""What a multipart body may hold besides the file: boundaries, and the headers of its part."""

_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file as its sender named it. `file` is open for reading, and gone once it is closed."""

    filename: str
    size_bytes: int
    sha256: bytes
    file: BinaryIO


@dataclass(frozen=True, slots=True)
class UploadRules:
    """Where the bytes wait, how many there may be, and what a file may be called: `check_name` raises for the rest."""

    directory: Path
    max_bytes: int
    setting: str
    check_name: Callable[[str], object]


@asynccontextmanager
async def received_file(request: Request, rules: UploadRules) -> AsyncIterator[ReceivedFile]:
    """The only part of a multipart body, named `file`. The bytes go when the block is left.

    Raises `BadRequest`, `UnsupportedMedia`, `PayloadTooLarge` or `StorageFull`.
    """
    boundary = _boundary(request)
    with await asyncio.to_thread(_open, rules.directory) as file:
        sink = _Sink(file, rules.max_bytes, rules.setting)
        form = _Form(rules.check_name)
        await _read(request, boundary, form, sink)
        if form.filename is None:
            raise BadRequest(f"{FIELD}: it is missing; send the document as the multipart field {FIELD!r}")
        if not form.is_complete:
            raise BadRequest("body: it ends before its last boundary; send it whole")
        if sink.size_bytes == 0:
            raise BadRequest(f"{FIELD}: it is empty")
        yield ReceivedFile(form.filename, sink.size_bytes, sink.digest.digest(), file)


async def _read(request: Request, boundary: bytes, form: "_Form", sink: "_Sink") -> None:
    parser = MultipartParser(boundary, form.callbacks())
    try:
        async for chunk in request.stream():
            parser.write(chunk)
            if len(form.waiting) >= WRITE_BYTES:
                await sink.write(form.take())
        await sink.write(form.take())
        await sink.flush()
    except FormParserError as error:
        raise BadRequest(f"body: it is not valid multipart/form-data ({error})") from error
    except ClientDisconnect as error:
        raise BadRequest("body: the connection was cut before its end") from error


class _Form:
    """What the parser tells of the body's parts. Anything but one file is refused as soon as it shows."""

    def __init__(self, check_name: Callable[[str], object]) -> None:
        self._check_name = check_name
        self._header = b""
        self._headers: dict[bytes, bytes] = {}
        self._value = b""
        self.filename: str | None = None
        self.is_complete = False
        self.waiting = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }

    def take(self) -> bytes:
        """The bytes of the file that came since the last time."""
        taken = bytes(self.waiting)
        self.waiting.clear()
        return taken

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_header()

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._header) + len(self._value) > MAX_HEADER_BYTES:
            raise BadRequest(f"body: the headers of a part are longer than {MAX_HEADER_BYTES} bytes")

    def _on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.pop(b"content-disposition", b""))
        self._headers.clear()
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != FIELD:
            raise BadRequest(f"{name[:80]}: unknown field; send {FIELD!r} alone")
        if self.filename is not None:
            raise BadRequest(f"{FIELD}: send one file at a time")
        if b"filename" not in options:
            raise BadRequest(f"{FIELD}: send it as a file, with its name")
        self.filename = options[b"filename"].decode("utf-8", "replace")
        self._check_name(self.filename)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.waiting += data[start:end]

    def _on_end(self) -> None:
        self.is_complete = True


@dataclass(slots=True)
class _Sink:
    """Where the bytes go: to the disk and through the digest, in a thread."""

    file: BinaryIO
    max_bytes: int
    setting: str
    size_bytes: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    async def write(self, content: bytes) -> None:
        self.size_bytes += len(content)
        if self.size_bytes > self.max_bytes:
            raise PayloadTooLarge(f"{FIELD}: it is larger than {self.max_bytes} bytes ({self.setting})")
        await asyncio.to_thread(self._write, content)

    async def flush(self) -> None:
        await asyncio.to_thread(self._write, b"")

    def _write(self, content: bytes) -> None:
        self.digest.update(content)
        try:
            self.file.write(content)
            self.file.flush()
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFull("the server's disk is full: the file was not stored") from error
            raise


def _open(directory: Path) -> BinaryIO:
    """A file without a name: it goes with this process, however that ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=directory)
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull("the server's disk is full: the file was not stored") from error
        raise


def _boundary(request: Request) -> bytes:
    sent = request.headers.get("Content-Type", "")
    kind, options = parse_options_header(sent)
    if kind != b"multipart/form-data":
        raise UnsupportedMedia(
            f"Content-Type: {sent[:80] or 'none'!r}; send multipart/form-data with a field {FIELD!r}"
        )
    if not (boundary := options.get(b"boundary")):
        raise BadRequest("Content-Type: multipart/form-data needs its boundary")
    return boundary
