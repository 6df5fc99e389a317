"""The embedded server is shared by processes that come, leave and die, under any folder name and any user."""

import json
import os
import pwd
import shutil
import stat
import time
from pathlib import Path

import psycopg
import pytest

from core.embedded_postgres import EmbeddedPostgres, EmbeddedStatus, psql, status, stop
from core.postgres_processes import EmbeddedPostgresError, find_postmaster
from domain.errors import ConfigurationError
from tests.postgres_for_tests import Child

JOIN = """
import sys
from pathlib import Path
from core.embedded_postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.join()
print("joined", flush=True)
sys.stdin.read()
"""
JOIN_AND_LEAVE = JOIN + "server.leave()\n"


def _answers(uri: str) -> bool:
    with psycopg.connect(uri) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("program", [JOIN_AND_LEAVE, JOIN], ids=["leaving", "ending without leaving"])
def test_one_process_leaves_and_the_other_goes_on(data_dir: Path, program: str) -> None:
    pg = data_dir / "pg"
    first, second = Child(program, str(pg)), Child(program, str(pg))
    assert [first.read_line(), second.read_line()] == ["joined", "joined"]
    first.finish()
    assert _answers(EmbeddedPostgres(pg).uri)
    second.finish()
    assert find_postmaster(pg) is None


def test_a_process_killed_with_9_does_not_keep_the_server_alive(data_dir: Path) -> None:
    pg = data_dir / "pg"
    child = Child(JOIN, str(pg))
    assert child.read_line() == "joined"
    child.kill()
    assert find_postmaster(pg) is not None
    server = EmbeddedPostgres(pg)
    server.join()
    assert json.loads((pg / ".handle_pids.json").read_text()) == [os.getpid()]
    server.leave()
    assert find_postmaster(pg) is None


def test_a_listed_pid_that_another_program_inherited_does_not_count(data_dir: Path) -> None:
    pg = data_dir / "pg"
    server = EmbeddedPostgres(pg)
    server.join()
    child = Child("print('here', flush=True); sys = __import__('sys'); sys.stdin.read()")
    assert child.read_line() == "here"
    listed = pg / ".handle_pids.json"
    listed.write_text(json.dumps([child.process.pid, os.getpid()]))
    os.utime(listed, (time.time() - 60, time.time() - 60))
    server.leave()
    child.finish()
    assert find_postmaster(pg) is None


def test_a_postmaster_pid_that_another_program_inherited_does_not_stop_the_start(data_dir: Path) -> None:
    pg = data_dir / "pg"
    server = EmbeddedPostgres(pg)
    server.join()
    left = {name: (pg / name).read_text() for name in ("postmaster.pid", ".s.PGSQL.5432.lock")}
    server.leave()
    # What a container leaves that was killed and started again: the same low pids, other programs.
    for name, content in left.items():
        (pg / name).write_text(content.replace(content.split("\n")[0], str(os.getpid()), 1))
        shutil.chown(pg / name, pg.stat().st_uid, pg.stat().st_gid)
    again = EmbeddedPostgres(pg)
    try:
        assert _answers(again.join())
    finally:
        again.leave()


@pytest.mark.parametrize("after_s", [0.2, 0.4])
def test_a_first_start_that_is_killed_leaves_nothing_half_made(tmp_path: Path, after_s: float) -> None:
    pg = tmp_path / "pg"
    child = Child(JOIN, str(pg))
    time.sleep(after_s)  # Somewhere in initdb: each moment is a case of its own.
    child.kill()
    server = EmbeddedPostgres(pg)
    try:
        assert _answers(server.join())
    finally:
        server.leave()


def test_a_path_too_long_for_a_socket_works_through_a_private_folder(tmp_path: Path) -> None:
    pg = tmp_path / ("long" * 30) / "pg"
    server = EmbeddedPostgres(pg)
    try:
        assert _answers(server.join())
        postmaster = find_postmaster(pg)
        assert postmaster is not None
        assert postmaster.socket_dir != pg
        assert stat.S_IMODE(postmaster.socket_dir.stat().st_mode) == 0o700
    finally:
        server.leave()
    shutil.rmtree(postmaster.socket_dir)


def test_a_socket_folder_made_by_someone_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = EmbeddedPostgres(tmp_path / ("long" * 30) / "pg")
    server._socket_dir().mkdir(mode=0o777)
    server._socket_dir().chmod(0o777)
    with pytest.raises(EmbeddedPostgresError, match="someone else"):
        server.join()


def test_paths_that_are_too_long_everywhere_are_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/" + "t" * 100)
    with pytest.raises(ConfigurationError, match="too long"):
        _ = EmbeddedPostgres(tmp_path / ("long" * 30) / "pg").uri


def test_a_data_folder_may_have_spaces_and_accents_but_not_what_a_shell_expands(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "mes données" / "pg")
    try:
        assert _answers(server.join())
    finally:
        server.leave()
    with pytest.raises(ConfigurationError, match="DATA_DIR"):
        EmbeddedPostgres(tmp_path / "$(touch x)" / "pg")


def test_only_the_owner_may_open_the_socket(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir / "pg")
    try:
        server.join()
        assert stat.S_IMODE((data_dir / "pg" / ".s.PGSQL.5432").stat().st_mode) == 0o700
        assert stat.S_IMODE((data_dir / "pg").stat().st_mode) == 0o700
    finally:
        server.leave()


def test_a_locale_this_machine_lacks_and_the_caller_own_pg_variables_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LC_ALL": "xx_XX.UTF-8", "PGPORT": "6543", "PGDATA": "/nowhere", "PGDATABASE": "other"}.items():
        monkeypatch.setenv(name, value)
    server = EmbeddedPostgres(tmp_path / "pg")
    try:
        assert _answers(server.join())
    finally:
        server.leave()


def test_the_command_line_tells_stops_and_queries(data_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert status(data_dir) == EmbeddedStatus(initialised=True, running=False, pid=None, uri=None, users=())
    assert stop(data_dir) is False
    assert psql(data_dir, ["-Atc", "SELECT 40 + 2"]) == 0
    assert capfd.readouterr().out.strip() == "42"
    child = Child(JOIN, str(data_dir / "pg"))
    assert child.read_line() == "joined"
    now = status(data_dir)
    assert now.running
    assert now.users == (child.process.pid,)
    with pytest.raises(EmbeddedPostgresError, match=str(child.process.pid)):
        stop(data_dir)
    child.kill()
    assert stop(data_dir) is True
    assert not status(data_dir).running


AS_ORDINARY_USER = """
import asyncio, os, sys
from pathlib import Path
from config.settings import Settings
from core.database import Database

async def main(data_dir):
    database = Database(Settings(_env_file=None, data_dir=Path(data_dir), database_url=None))
    await database.open()
    ready = await database.wait_ready(45)
    print(ready, database.reason, os.geteuid(), flush=True)
    await database.close()

# The interpreter may sit in a folder only root can read: whatever is imported late is imported by a first run as root.
asyncio.run(main(sys.argv[1]))
os.setgroups([])
os.setgid(int(sys.argv[4]))
os.setuid(int(sys.argv[3]))
os.chdir("/")
asyncio.run(main(sys.argv[2]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests already run as an ordinary user")
def test_an_ordinary_user_needs_no_privilege_and_root_leaves_their_data_to_them(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    home = tmp_path / "home"
    home.mkdir()
    shutil.chown(home, nobody.pw_uid, nobody.pw_gid)
    for folder in [home, *home.parents]:
        folder.chmod(folder.stat().st_mode | 0o055)
    child = Child(AS_ORDINARY_USER, str(tmp_path / "root"), str(home / "data"), str(nobody.pw_uid), str(nobody.pw_gid))
    assert child.finish().splitlines() == ["True None 0", f"True None {nobody.pw_uid}"]
    assert not status(home / "data").running
    server = EmbeddedPostgres(home / "data" / "pg")
    try:
        assert _answers(server.join())
        assert {path.stat().st_uid for path in (home / "data" / "pg").iterdir()} == {nobody.pw_uid}
    finally:
        server.leave()
