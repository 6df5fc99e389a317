"""A process that handles what is not trusted: what it may take, what is heard of it, and that it ends."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core.bounded_child import ROOT, Bounds, ChildEnded, LineTooLong, bounded_command, run_bounded

BOUNDS = Bounds(cpu_s=100, memory_bytes=200_000_000, max_file_bytes=1_000_000)
WAIT_S = 60.0


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= before, "no process and no zombie stays"


def program(text: str) -> list[str]:
    return [sys.executable, "-c", f"import os, sys, time; {text}"]


def bounded(statement: str, bounds: Bounds = BOUNDS) -> list[str]:
    """`timeit` has a `main` that runs a statement once: any module that has one can be run."""
    return bounded_command("timeit", bounds, "-n1", "-r1", "-s", "import os, sys, time", statement)


async def ended(command: list[str]) -> ChildEnded:
    async with run_bounded(command, max_line_bytes=1_000) as child:
        try:
            while True:
                await child.read_line(WAIT_S)
        except ChildEnded as error:
            return error


async def test_it_is_asked_and_answers() -> None:
    echo = program("[print(line.strip()[::-1], flush=True) for line in sys.stdin]")
    async with run_bounded(echo, max_line_bytes=1_000, asked=True) as child:
        for word in (b"abc", b"def"):
            child.ask(word + b"\n")
            assert await child.read_line(WAIT_S) == word[::-1] + b"\n"


async def test_it_is_not_asked_where_nothing_was_agreed() -> None:
    async with run_bounded(program("print(sys.stdin.read() == '')"), max_line_bytes=1_000) as child:
        assert await child.read_line(WAIT_S) == b"True\n"
        with pytest.raises(RuntimeError, match="without a pipe"):
            child.ask(b"\n")


async def test_asking_one_that_has_ended_says_so_when_reading() -> None:
    async with run_bounded(program(""), max_line_bytes=1_000, asked=True) as child:
        with pytest.raises(ChildEnded):
            await child.read_line(WAIT_S)
        child.ask(b"are you there?\n")
        with pytest.raises(ChildEnded, match="with status 0"):
            await child.read_line(WAIT_S)


async def test_how_it_ended_is_told() -> None:
    assert (await ended(program("sys.exit(3)"))).how == "with status 3"
    assert (await ended(program("os.kill(os.getpid(), 9)"))).how == "by SIGKILL"
    assert (await ended(program("os._exit(81)"))).out_of_memory
    assert (await ended(program(f"os.kill(os.getpid(), {int(signal.SIGXCPU)})"))).out_of_time


async def test_a_line_too_long_and_one_too_late_are_told() -> None:
    async with run_bounded(program("print('x' * 10_000); time.sleep(60)"), max_line_bytes=1_000) as child:
        with pytest.raises(LineTooLong):
            await child.read_line(WAIT_S)
    async with run_bounded(program("time.sleep(60)"), max_line_bytes=1_000) as child:
        with pytest.raises(TimeoutError):
            await child.read_line(0.05)


async def test_a_descriptor_given_along_can_be_opened_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("inside")
    with (tmp_path / "a").open() as file:
        text = f"print(open('/dev/fd/{file.fileno()}').read())"
        async with run_bounded(program(text), max_line_bytes=1_000, pass_fds=(file.fileno(),)) as child:
            assert await child.read_line(WAIT_S) == b"inside\n"


async def test_leaving_kills_the_whole_session_and_closes_every_pipe() -> None:
    await ended(program(""))
    others = psutil.Process().children(recursive=True)
    open_before = psutil.Process().num_fds()
    async with run_bounded(
        program("os.fork(); print('up', flush=True); time.sleep(60)"), max_line_bytes=99, asked=True
    ) as child:
        await child.read_line(WAIT_S)
        await child.read_line(WAIT_S)
        found = [process for process in psutil.Process().children(recursive=True) if process not in others]
        assert len(found) == 2
    psutil.wait_procs(found, timeout=WAIT_S)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in found)
    await asyncio.sleep(0)  # A transport closes its pipe at the loop's next turn.
    assert psutil.Process().num_fds() <= open_before


async def test_a_program_that_cannot_be_started_leaves_nothing_open(tmp_path: Path) -> None:
    open_before = psutil.Process().num_fds()
    with pytest.raises(FileNotFoundError):
        async with run_bounded([str(tmp_path / "none")], max_line_bytes=99, asked=True):
            pass
    assert psutil.Process().num_fds() <= open_before


async def test_it_runs_bare_and_within_its_bounds() -> None:
    statement = "print(os.nice(0), len(os.environ), os.getsid(0) == os.getpid(), os.getcwd(), flush=True)"
    async with run_bounded(bounded(statement), max_line_bytes=1_000) as child:
        nice, variables, leads, folder = (await child.read_line(WAIT_S)).decode().split()
    assert (nice, leads, folder) == ("10", "True", str(ROOT))
    assert int(variables) < 10


async def test_more_memory_than_allowed_ends_it() -> None:
    assert (await ended(bounded("x = b'x' * 300_000_000; time.sleep(60)"))).out_of_memory


async def test_more_processor_time_than_allowed_ends_it() -> None:
    error = await ended(bounded("while True: pass", Bounds(1, 200_000_000, 1_000_000)))
    assert error.out_of_time or error.how == "by SIGKILL"


async def test_a_file_larger_than_allowed_is_not_written(tmp_path: Path) -> None:
    statement = f"with open({str(tmp_path / 'a')!r}, 'wb', 0) as file: print(file.write(bytes(2_000_000)), flush=True)"
    async with run_bounded(bounded(statement), max_line_bytes=1_000) as child:
        assert await child.read_line(WAIT_S) == b"1000000\n"


async def test_it_ends_when_its_server_was_killed() -> None:
    server = (
        "import os, subprocess; from core.bounded_child import Bounds, bounded_command;"
        f"command = bounded_command('timeit', {BOUNDS!r}, '-s', 'import time', 'time.sleep(99)');"
        "child = subprocess.Popen(command, start_new_session=True, stdout=-3, stderr=-3);"
        "print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    told = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", server], cwd=ROOT, stdout=subprocess.PIPE, check=False
    )
    with contextlib.suppress(psutil.NoSuchProcess):  # It is gone already.
        orphan = psutil.Process(int(told.stdout))
        try:
            await asyncio.to_thread(orphan.wait, WAIT_S)
        finally:
            orphan.send_signal(signal.SIGKILL)


CANCELLED_ON_UVLOOP = """
import asyncio, sys
import psutil, uvloop
from core.bounded_child import run_bounded

async def cancelled_after(turns):
    async def use():
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        async with run_bounded(command, max_line_bytes=100, asked=True) as child:
            await child.read_line(30)
    task = asyncio.create_task(use())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return type(outcome).__name__

async def main():
    print([await cancelled_after(turns) for turns in range(8)])
    print([child.pid for child in psutil.Process().children()])

uvloop.run(main())
"""


async def test_cancelled_at_any_moment_no_child_is_left_on_the_servers_own_loop() -> None:
    """uvloop, which closes what it was given when it is cancelled."""
    command = [sys.executable, "-c", CANCELLED_ON_UVLOOP]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=ROOT)
    said, _ = await process.communicate()
    assert said.decode().splitlines() == [str(["CancelledError"] * 8), "[]"]
