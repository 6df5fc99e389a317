"""One uploaded file, read from the wire to the disk: its bytes are never in memory whole."""

import asyncio
import errno
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from core.private_files import make_private_folder
from domain.errors import BadRequest, PayloadTooLarge, StorageFull, UnsupportedMedia

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "file"
WRITE_BYTES = 1_048_576
MAX_HEADER_BYTES = 16_384
MAX_TEXT_BYTES = 32_768
PART_BYTES = 256
"""What a part takes here besides its name and its text."""
MAX_BOUNDARY_BYTES = 256
"""The parser's own bound. RFC 2046 allows 70."""
ENVELOPE_BYTES = 65_536
"""What a multipart body may hold besides the file: boundaries, the headers of its parts, and text fields."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file as its sender named it. `file` is open for reading, and gone once it is closed.

    `fields` are the text fields sent beside it, a field sent several times joined by commas.
    """

    filename: str
    size_bytes: int
    sha256: bytes
    file: BinaryIO
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class UploadRules:
    """Where the bytes wait, how many there may be, and what a file may be called: `check_name` raises for the rest.

    `fields` may be sent beside the file, as text; `None` is any. `needs_space` says how often the file will be written:
    a disk that cannot hold it so often refuses it before it is read.
    """

    directory: Path
    max_bytes: int
    setting: str
    check_name: Callable[[str], object]
    fields: frozenset[str] | None = frozenset()
    needs_space: float = 1.0


@asynccontextmanager
async def received_file(request: Request, rules: UploadRules) -> AsyncIterator[ReceivedFile]:
    """The file of a multipart body, its part named `file`. The bytes go when the block is left.

    Raises `BadRequest`, `UnsupportedMedia`, `PayloadTooLarge` or `StorageFull`.
    """
    boundary = _boundary(request)
    with await asyncio.to_thread(_open, rules.directory) as file:
        sink = _Sink(file, rules.max_bytes, rules.setting)
        form = _Form(rules.check_name, rules.fields)
        await asyncio.to_thread(_check_space, rules, request.headers.get("Content-Length"))
        await _read(request, boundary, form, sink)
        if form.filename is None:
            raise BadRequest(f"{FIELD}: it is missing; send it as the multipart field {FIELD!r}")
        if not form.is_complete:
            raise BadRequest("body: it ends before its last boundary; send it whole")
        if sink.size_bytes == 0:
            raise BadRequest(f"{FIELD}: it is empty")
        yield ReceivedFile(form.filename, sink.size_bytes, sink.digest.digest(), file, form.texts())


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
    """What the parser tells of the body's parts. Anything but one file and its fields is refused at once."""

    def __init__(self, check_name: Callable[[str], object], fields: frozenset[str] | None) -> None:
        self._check_name = check_name
        self._fields = fields
        self._texts: dict[str, list[bytearray]] = {}
        self._text: bytearray | None = None
        self._text_bytes = 0
        self._header = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
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

    def texts(self) -> dict[str, str]:
        """The fields that came beside the file."""
        try:
            return {name: ",".join(bytes(value).decode() for value in values) for name, values in self._texts.items()}
        except UnicodeDecodeError as error:
            raise BadRequest("body: a field of it is not UTF-8") from error

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._count_header(end - start)

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count_header(end - start)

    def _count_header(self, count: int) -> None:
        self._header_bytes += count
        if self._header_bytes > MAX_HEADER_BYTES:
            raise BadRequest(f"body: the headers of a part are longer than {MAX_HEADER_BYTES} bytes")

    def _on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.pop(b"content-disposition", b""))
        self._headers.clear()
        self._header_bytes = 0
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._text = None
        if name != FIELD:
            self._begin_text(name)
            return
        if self.filename is not None:
            raise BadRequest(f"{FIELD}: send one file at a time")
        if b"filename" not in options:
            raise BadRequest(f"{FIELD}: send it as a file, with its name")
        self.filename = options[b"filename"].decode("utf-8", "replace")
        self._check_name(self.filename)

    def _begin_text(self, name: str) -> None:
        if self._fields is not None and name not in self._fields:
            known = " alone" if not self._fields else f", and {', '.join(sorted(self._fields))} beside it"
            raise BadRequest(f"{name[:80]}: unknown field; send {FIELD!r}{known}")
        self._count_text(len(name) + PART_BYTES)
        self._text = bytearray()
        self._texts.setdefault(name.removesuffix("[]"), []).append(self._text)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._text is None:
            self.waiting += data[start:end]
            return
        self._count_text(end - start)
        self._text += data[start:end]

    def _count_text(self, count: int) -> None:
        self._text_bytes += count
        if self._text_bytes > MAX_TEXT_BYTES:
            raise BadRequest(f"body: its fields besides {FIELD!r} hold more than {MAX_TEXT_BYTES} bytes")

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


def _check_space(rules: UploadRules, declared: str | None) -> None:
    """Raises `StorageFull` for a body that is known not to fit, before it is read."""
    if declared is None or not declared.isdigit():
        return
    needed = int(int(declared) * rules.needs_space)
    place = next(folder for folder in (rules.directory, *rules.directory.parents) if folder.exists())
    if shutil.disk_usage(place).free < needed:
        raise StorageFull(f"the server's disk has no room for it: {needed} bytes are needed; send it later")


def _open(directory: Path) -> BinaryIO:
    """A file without a name: it goes with this process, however that ends."""
    try:
        make_private_folder(directory)
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
    if len(boundary) > MAX_BOUNDARY_BYTES:
        raise BadRequest(f"Content-Type: the boundary has {len(boundary)} bytes; at most {MAX_BOUNDARY_BYTES}")
    return boundary
