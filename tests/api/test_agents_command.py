"""`python app.py agents`: what there is, and the first lines of what is to come."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from api.agents_command import write_new_agent
from domain.errors import ConfigurationError
from tests.live_server import ROOT, clean_environment

LIMIT_S = 120


def run(project: Path, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=clean_environment(LOCAL_MODEL="none", **environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, to write in."""
    copy = tmp_path / "project"
    # Also without what other tests and tools write meanwhile.
    left = (".venv", "data", ".git", "__pycache__", "node_modules", ".hypothesis", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*left))
    return copy


@pytest.mark.parametrize("words", [["agents"], ["agents", "list"]])
def test_the_agents_are_listed_with_their_files(tmp_path: Path, words: list[str]) -> None:
    ran = run(tmp_path, str(ROOT / "app.py"), *words)
    assert ran.returncode == 0, ran.stderr
    lines = {line.split()[0]: line for line in ran.stdout.splitlines()}
    assert "graphs/v2_graph.py" in lines["V2"]
    assert "Default agent" in lines["V2"]
    assert "not available" not in lines["V2"]


def test_an_agent_that_cannot_be_loaded_is_one_line_that_names_it(tmp_path: Path) -> None:
    ran = run(tmp_path, str(ROOT / "app.py"), "agents", AGENTS_CONFIG="none.json")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("routeur: AGENTS_CONFIG='none.json' cannot be read")


def test_a_new_agent_is_listed_and_passes_its_own_test_and_the_houses_rules(project: Path) -> None:
    made = run(project, "app.py", "agents", "new", "legal_advisor2")
    assert made.returncode == 0, made.stderr
    graph, test = (Path(line) for line in made.stdout.splitlines())
    assert graph == project / "graphs" / "legal_advisor2_graph.py"
    assert test == project / "tests" / "graphs" / "test_legal_advisor2_graph.py"
    assert "legal_advisor2" in run(project, "app.py", "agents").stdout
    for command in (
        ["-m", "pytest", str(test)],
        ["-m", "ruff", "format", "--check", str(graph), str(test)],
        ["-m", "ruff", "check", "--no-cache", str(graph), str(test)],
        ["-m", "mypy", "--no-incremental", str(graph)],
    ):
        ran = run(project, *command)
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"


@pytest.mark.parametrize(
    "name",
    ["", "2x", "Legal", "legal-advisor", "légal", "_x", "x_", "a__b", "class", "../x", "a/b", "x" * 41, "a b", "{x}"],
)
def test_a_bad_name_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a name for an agent's file"):
        write_new_agent(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "taken", ["graphs/poet_graph.py", "tests/graphs/test_poet_graph.py", "tests/api/test_poet_graph.py"]
)
def test_a_file_that_exists_is_kept_and_nothing_is_written(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).parent.mkdir(parents=True)
    (tmp_path / taken).write_text("mine")
    with pytest.raises(ConfigurationError, match=f"{taken} exists already; nothing was written"):
        write_new_agent("poet", tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / taken]
    assert (tmp_path / taken).read_text() == "mine"
