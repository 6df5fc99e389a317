"""The process that reads a recording: bounded, asked piece by piece, believed in nothing, and always ended."""

import asyncio
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from core.bounded_child import ENVIRONMENT, ROOT, BoundedChild
from domain.audio import CutPlan
from services.audio import media
from services.audio.media import MediaLimits, UnreadableAudio, cut, probe
from services.audio.media_wire import MAX_LINE_BYTES
from tests.media_for_tests import LIMITS, refusal_of, written
from tests.speech_for_tests import recording, wav

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
PLAN = CutPlan(60, 10, 12)
STANDING = "import os, signal, sys, time\nsay = lambda line: os.write(1, line)\nask = sys.stdin.buffer.readline\n"
PIECE = b'{"piece":[0,0.0,9.5,0.0,false]}\n'
WRITE = "name = ask().decode().strip(); open(os.path.join(sys.argv[1], name), 'w').write('x'); "
END = b'{"end":true}\n'


_others: set[psutil.Process] = set()
"""Children of this process before the test: a database, another test's server."""


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    _others.clear()
    _others.update(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= _others, "no process and no zombie stays"


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Another program takes the reader's place; it is told the folder of the pieces."""
    folder = tmp_path / "pieces"
    folder.mkdir()

    def _play(program: str) -> Path:
        command = [sys.executable, "-c", STANDING + program, str(folder)]
        monkeypatch.setattr(media, "bounded_command", lambda *_: command)
        return written(tmp_path, b"x")

    return _play


def child() -> psutil.Process:
    (process,) = set(psutil.Process().children()) - _others
    return process


async def play_pieces(path: Path, limits: MediaLimits = LIMITS) -> int:
    """How many there are."""
    async with contextlib.aclosing(cut(path, PLAN, path.parent / "pieces", limits)) as pieces:
        return len([piece async for piece in pieces])


@LINUX
async def test_the_process_has_no_secret_and_little_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    path = written(tmp_path, wav(recording(40)))
    async with contextlib.aclosing(cut(path, CutPlan(40, 10, 20), tmp_path, LIMITS)) as pieces:
        await anext(pieces)
        process = child()
        assert set(process.environ()) <= {*ENVIRONMENT, "LC_CTYPE"}
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
        assert process.nice() == 10
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert process.rlimit(psutil.RLIMIT_AS)[1] < 1_000_000_000
        assert process.rlimit(psutil.RLIMIT_FSIZE)[1] < 10_000_000
        assert process.rlimit(psutil.RLIMIT_CPU)[1] < 2_000
        assert process.net_connections() == []
        assert {file.path for file in process.open_files()} <= {str(path)}


async def test_the_server_itself_loads_nothing_that_decodes() -> None:
    program = "import sys, services.audio.media; print(*{name.partition('.')[0] for name in sys.modules})"
    names = await _modules(program)
    assert "asyncio" in names
    assert not names & {"av", "numpy"}


async def test_the_process_loads_nothing_of_the_server() -> None:
    program = (
        "import sys, services.audio.media_child, services.audio.media_pieces, services.audio.media_probing, "
        "core.child_bounds; print(*{name.partition('.')[0] for name in sys.modules}, *sys.modules)"
    )
    names = await _modules(program)
    assert "av" in names
    assert not names & {"fastapi", "pydantic", "langchain_core", "config", "api", "core.bounded_child", "aiohttp"}


async def _modules(program: str) -> set[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=ROOT, env=ENVIRONMENT, stdout=asyncio.subprocess.PIPE
    )
    return set((await process.communicate())[0].decode().split())


async def test_leaving_early_ends_the_process_and_leaves_what_is_finished(tmp_path: Path) -> None:
    path, folder = written(tmp_path, wav(recording(40))), tmp_path / "pieces"
    folder.mkdir()
    async with contextlib.aclosing(cut(path, CutPlan(40, 10, 20), folder, LIMITS)) as pieces:
        first, second = await anext(pieces), await anext(pieces)
        process = child()
    assert not process.is_running()
    assert {*folder.iterdir()} == {first.path, second.path}


async def test_cancelling_ends_the_process_and_removes_the_piece_at_hand_only(play: Callable[[str], Path]) -> None:
    path = play(WRITE + f"say({PIECE!r}); {WRITE} time.sleep(60)")
    folder = path.parent / "pieces"
    async with contextlib.aclosing(cut(path, PLAN, folder, LIMITS)) as pieces:
        first = await anext(pieces)
        second = asyncio.ensure_future(anext(pieces))
        async with asyncio.timeout(30):
            while len([*folder.iterdir()]) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
    assert [*folder.iterdir()] == [first.path]


async def test_a_process_killed_from_outside_is_a_reason(tmp_path: Path) -> None:
    path = written(tmp_path, wav(recording(40)))
    async with contextlib.aclosing(cut(path, CutPlan(40, 10, 20), tmp_path, LIMITS)) as pieces:
        await anext(pieces)
        child().kill()
        with pytest.raises(UnreadableAudio, match=r"ended by SIGKILL.*300 MB") as caught:
            await anext(pieces)
    assert not caught.value.not_audio


async def test_the_process_is_not_asked_before_its_piece_is_wanted(play: Callable[[str], Path]) -> None:
    path = play(WRITE + f"say({PIECE!r}); ask(); say({END!r})")
    async with contextlib.aclosing(cut(path, PLAN, path.parent / "pieces", MediaLimits(timeout_s=20))) as pieces:
        await anext(pieces)
        process = child()
        assert process.status() in (psutil.STATUS_SLEEPING, psutil.STATUS_RUNNING)
        assert [piece async for piece in pieces] == []


async def test_each_piece_has_all_the_time_and_the_consumer_s_own_does_not_count(
    play: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    async def _read_line(self: BoundedChild, within_s: float) -> bytes:
        given.append(within_s)
        return await read_line(self, within_s)

    read_line = BoundedChild.read_line
    monkeypatch.setattr(BoundedChild, "read_line", _read_line)
    other = PIECE.replace(b"[0,0.0,9.5", b"[1,9.5,19.0")
    path = play(WRITE + f"say({PIECE!r}); {WRITE} say({other!r}); ask(); say({END!r})")
    assert await play_pieces(path) == 2
    assert given == [LIMITS.timeout_s] * 3


async def test_a_reader_that_takes_too_long_is_ended(play: Callable[[str], Path]) -> None:
    path = play("time.sleep(60)")
    limits = MediaLimits(timeout_s=0.3)
    assert "longer than the 0.3 s allowed" in (await refusal_of(path, limits)).reason
    with pytest.raises(UnreadableAudio, match=r"longer than the 0\.3 s allowed"):
        await play_pieces(path, limits)


async def test_memory_and_processor_time_over_the_limit_are_reasons(play: Callable[[str], Path]) -> None:
    assert "more memory than the 300 MB allowed" in (await refusal_of(play("os._exit(81)"))).reason
    assert "longer than the 100 s" in (await refusal_of(play("os.kill(os.getpid(), signal.SIGXCPU)"))).reason


@LINUX
async def test_a_full_disk_is_the_server_s_fault_and_not_the_recording_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = written(tmp_path, wav(recording(20)))
    (tmp_path / "full.mp3").symlink_to("/dev/full")
    monkeypatch.setattr(media, "_piece_name", lambda: "full.mp3")
    async with contextlib.aclosing(cut(path, CutPlan(20, 10, 20), tmp_path, LIMITS)) as pieces:
        with pytest.raises(OSError, match="No space left") as caught:
            await anext(pieces)
    assert caught.value.errno == errno.ENOSPC


async def test_a_recording_or_a_folder_that_is_not_there_is_the_server_s_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await probe(tmp_path / "gone", LIMITS)
    with pytest.raises(FileNotFoundError):
        await anext(cut(tmp_path / "gone", PLAN, tmp_path, LIMITS))
    with pytest.raises(FileNotFoundError):
        await anext(cut(written(tmp_path, wav(recording(20))), PLAN, tmp_path / "gone", LIMITS))


@pytest.mark.parametrize(
    "plan",
    [
        CutPlan(60, 0.5, 10),
        CutPlan(60, 10, 9),
        CutPlan(float("nan"), 10, 20),
        CutPlan(float("inf"), 10, 20),
        CutPlan(60, 10, 20, start_s=-1),
        CutPlan(60, 10, 20, first_ordinal=-1),
    ],
)
async def test_a_plan_that_cannot_be_is_the_caller_s_mistake(plan: CutPlan, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recording can be cut by CutPlan"):
        await anext(cut(tmp_path, plan, tmp_path))


@pytest.mark.parametrize(
    "said",
    [
        "say(b'no json\\n')",
        'say(b\'{"probe":[1,"wav","pcm"]}\\n\')',
        f"say({PIECE!r})",
        f"os.mkdir(os.path.join(sys.argv[1], ask().decode().strip())); say({PIECE!r})",
        f"open(os.path.join(sys.argv[1], ask().decode().strip()), 'w'); say({PIECE!r})",
        f"say(b'x' * {2 * MAX_LINE_BYTES})",
        WRITE + f"say({PIECE!r}); say({PIECE!r})",
        'say(b\'{"broke":"KeyError at media_child.py:12"}\\n\')',
    ],
)
async def test_what_the_process_says_is_checked(
    said: str, play: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = play(said + "; time.sleep(60)")
    with pytest.raises(UnreadableAudio, match="damaged or unusual") as caught:
        await play_pieces(path)
    assert not caught.value.not_audio
    assert [record.where for record in caplog.records if record.message == "a recording could not be read"]
    assert sum(name.is_file() for name in (path.parent / "pieces").iterdir()) == said.count(WRITE)


async def test_a_crash_names_its_signal(play: Callable[[str], Path]) -> None:
    assert "SIGSEGV" in (await refusal_of(play(f"os.kill(os.getpid(), {int(signal.SIGSEGV)})"))).reason
