"""Where the embedded server is found while it has not yet said where."""

import os
from pathlib import Path

import pytest

from core import embedded_postgres
from core.embedded_postgres import EmbeddedPostgres
from core.postgres_processes import Postmaster, find_postmaster


def test_a_server_that_starts_is_looked_for_where_its_socket_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL writes its pid first, and the folder of its socket a moment later."""
    server = EmbeddedPostgres(tmp_path / "pg")
    expected = server.uri
    lines = [str(os.getpid()), str(tmp_path / "pg"), "1", "5432", ""]
    (tmp_path / "pg").mkdir()
    (tmp_path / "pg" / "postmaster.pid").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("core.postgres_processes._serves", lambda *_: True)
    assert find_postmaster(tmp_path / "pg") == Postmaster(os.getpid(), Path())
    assert embedded_postgres.status(tmp_path).uri == server.uri == expected
