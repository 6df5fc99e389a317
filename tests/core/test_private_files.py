"""What the server writes is its user's alone, whatever the umask and whatever was there before."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.child_bounds import bound
from core.private_files import make_data_folder, make_private_folder, open_private
from tests.postgres_for_tests import Child


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_folder_and_a_file_are_private_under_any_umask(tmp_path: Path, umask: int) -> None:
    make_private_folder(tmp_path / "data" / "files")
    with open_private(tmp_path / "data" / "files" / "document") as file:
        file.write(b"secret")
    assert mode_of(tmp_path / "data" / "files") == 0o700
    assert mode_of(tmp_path / "data" / "files" / "document") == 0o600
    # Nobody lists what is above either; as root, the database's user may pass.
    assert mode_of(tmp_path / "data") == (0o711 if os.geteuid() == 0 else 0o700)


def test_what_was_left_open_by_an_earlier_version_is_closed(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir(mode=0o777)
    (tmp_path / "files").chmod(0o777)
    left = tmp_path / "files" / "document"
    left.write_bytes(b"a former attempt's")
    left.chmod(0o666)
    make_private_folder(tmp_path / "files")
    with open_private(left) as file:
        file.write(b"new")
    assert (mode_of(tmp_path / "files"), mode_of(left), left.read_bytes()) == (0o700, 0o600, b"new")


def test_the_folders_of_an_operator_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "shared")
    make_private_folder(tmp_path / "link")
    make_data_folder(tmp_path / "shared")
    assert mode_of(tmp_path / "shared") == 0o755


BOUNDED = f"""
import sys
from core.child_bounds import {bound.__name__}
bound(cpu_s=60, memory_bytes=1_000_000_000, max_file_bytes=1_000_000)
open(sys.argv[1], "wb").write(b"a piece of a recording")
"""


def test_a_process_that_reads_a_file_of_a_caller_writes_private_files(tmp_path: Path) -> None:
    Child(BOUNDED, str(tmp_path / "piece")).finish()
    assert mode_of(tmp_path / "piece") == 0o600
