"""The process that reads a document: how it is started, bounded, slowed down and ended."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from services.rag.extraction import extractor
from services.rag.extraction.extractor import ExtractionLimits, UnreadableDocument, extract_passages
from services.rag.extraction.wire import MAX_LINE_BYTES
from tests.documents_for_tests import parts_of, passages_of, reason_of, write_long_pdf

PART = b'{"passages":[[0,"a",[],null,0,1]],"pages_done":null,"pages_total":null,"title":null}\n'
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
TEXT_CHARS = 14_000_000
STANDING = "import os, sys, time, signal\nsay = lambda line: os.write(1, line)\n"


_others: set[int] = set()
"""Children that other tests have started, and that serve a whole session: they and theirs are not ours."""


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not _others & {process.pid, *(parent.pid for parent in process.parents())}:
                found.append(process)
    return found


@pytest.fixture(autouse=True)
def _nobody_is_left() -> object:
    _others.clear()
    _others.update(process.pid for process in psutil.Process().children())
    yield
    assert not children(), "no process and no zombie stays"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    one = "Un paragraphe. " + "Une phrase. " * 60 + "\n\n"
    path.write_text(one * (TEXT_CHARS // len(one)))
    return path


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Another program takes the reader's place."""

    def _play(program: str) -> Path:
        monkeypatch.setattr(extractor, "_command", lambda *_: [sys.executable, "-c", STANDING + program])
        path = tmp_path / "played.txt"
        path.write_text("x")
        return path

    return _play


@LINUX
async def test_the_process_has_no_secret_no_server_and_little_right(
    monkeypatch: pytest.MonkeyPatch, text: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    async with contextlib.aclosing(extract_passages(text, "a.txt", ExtractionLimits(timeout_s=77))) as parts:
        await anext(parts)
        (process,) = children()
        assert set(process.environ()) <= {*extractor.ENVIRONMENT, "LC_CTYPE"}
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
        assert process.nice() == 10
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert process.rlimit(psutil.RLIMIT_CPU) == (78, 78)
        assert process.rlimit(psutil.RLIMIT_AS)[1] < 2_000_000_000
        assert process.rlimit(psutil.RLIMIT_FSIZE)[1] < 10_000_000
        assert process.open_files() == []
        assert process.net_connections() == []
        assert _input_of(process) == Path("/dev/null")


@pytest.mark.parametrize("suffix", ["pdf", "docx", "pptx", "html", "md", "txt", "csv"])
async def test_the_process_imports_what_the_format_needs_and_nothing_of_the_server(suffix: str) -> None:
    program = (
        "import importlib, sys; import services.rag.extraction.child as child;"
        f"importlib.import_module('services.rag.extraction.' + child.READERS['{suffix}']);"
        "print(*{name.partition('.')[0] for name in sys.modules}, *sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=extractor.ROOT, env=extractor.ENVIRONMENT, stdout=asyncio.subprocess.PIPE
    )
    names = set((await process.communicate())[0].decode().split())
    assert not names & {
        "fastapi",
        "langchain_core",
        "pydantic",
        "asyncio",
        "config",
        "core",
        "api",
        "services.completion",
    }
    libraries = {"pdf": "pypdfium2", "docx": "docx", "pptx": "pptx", "html": "selectolax", "md": "markdown_it"}
    assert not names & {library for own, library in libraries.items() if own != suffix}


def _input_of(process: psutil.Process) -> Path:
    return Path(f"/proc/{process.pid}/fd/0").readlink()


async def test_leaving_early_ends_the_process_and_closes_its_pipe(text: Path) -> None:
    await passages_of(text, ExtractionLimits(max_text_chars=TEXT_CHARS))
    open_before = psutil.Process().num_fds()
    async with contextlib.aclosing(extract_passages(text, "a.txt", ExtractionLimits())) as parts:
        await anext(parts)
        assert len(children()) == 1
    assert not children()
    await asyncio.sleep(0)  # A transport closes its pipe at the loop's next turn.
    assert psutil.Process().num_fds() <= open_before


async def test_cancelling_ends_the_process(play: Callable[[str], Path]) -> None:
    path = play("time.sleep(60)")
    reading = asyncio.create_task(passages_of(path))
    async with asyncio.timeout(30):
        while not children():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not children()


async def test_the_process_s_own_children_end_with_it(play: Callable[[str], Path]) -> None:
    path = play(f"pid = os.fork(); pid and say({PART!r}); time.sleep(60)")
    async with contextlib.aclosing(extract_passages(path, "a.txt", ExtractionLimits())) as parts:
        await anext(parts)
        found = children()
        assert len(found) == 2
    psutil.wait_procs(found, timeout=30)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in found)


@LINUX
async def test_a_slow_consumer_slows_the_process_and_keeps_little_in_memory(text: Path) -> None:
    async with contextlib.aclosing(extract_passages(text, "a.txt", ExtractionLimits())) as parts:
        await anext(parts)
        (process,) = children()
        async with asyncio.timeout(30):
            while not await _stands(process):
                pass
        written = process.io_counters().write_chars
        assert written < 4 * MAX_LINE_BYTES + 200_000 < TEXT_CHARS / 1.5
        rest = [part async for part in parts]
    assert sum(len(part.passages) for part in rest) > 10_000


async def _stands(process: psutil.Process) -> bool:
    """It has said nothing for a while."""
    said = process.io_counters().write_chars
    await asyncio.sleep(0.2)
    return bool(said == process.io_counters().write_chars)


async def test_the_consumer_s_own_time_does_not_count(play: Callable[[str], Path]) -> None:
    path = play(f"say({PART!r}); say({PART.replace(b'[0,', b'[1,')!r}); say(b'{{\"end\":true}}\\n')")
    async with contextlib.aclosing(extract_passages(path, "a.txt", ExtractionLimits(timeout_s=3))) as parts:
        await anext(parts)
        await asyncio.sleep(3.2)
        assert (await anext(parts)).passages[0].ordinal == 1


async def test_a_reader_that_takes_too_long_is_ended(play: Callable[[str], Path]) -> None:
    path = play("time.sleep(60)")
    started = time.monotonic()
    assert "longer than the 0.3 s allowed" in await reason_of(path, ExtractionLimits(timeout_s=0.3))
    assert time.monotonic() - started < 30


async def test_a_reader_that_drips_is_ended_when_all_its_time_is_spent(play: Callable[[str], Path]) -> None:
    path = play(f"n = 0\nwhile say({PART!r}.replace(b'[0,', b'[%d,' % n)): n += 1; time.sleep(0.1)")
    async with asyncio.timeout(60):
        assert "longer than the 0.5 s allowed" in await reason_of(path, ExtractionLimits(timeout_s=0.5))


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGABRT"])
async def test_a_crash_is_a_reason(play: Callable[[str], Path], name: str) -> None:
    path = play(f"os.kill(os.getpid(), signal.{name})")
    reason = await reason_of(path)
    assert name in reason
    assert "1,000 MB" in reason


async def test_processor_time_over_the_limit_is_a_reason(play: Callable[[str], Path]) -> None:
    path = play("os.kill(os.getpid(), signal.SIGXCPU)")
    assert "longer than the 600 s allowed" in await reason_of(path)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"no json\n",
        b'{"other":1}\n',
        PART.replace(b"[0,", b"[1,"),
        PART.replace(b"0,1]]", b"1,1]]"),
        PART.replace(b"[]", b"[3]"),
        PART.replace(b'"a"', b'"' + b"a" * 9_999 + b'"'),
        PART.replace(b'"title":null', b'"title":3'),
        PART.replace(b'"pages_done":null', b'"pages_done":-1'),
        b"x" * (MAX_LINE_BYTES * 2),
        PART + PART,
    ],
)
async def test_what_the_process_says_is_checked(play: Callable[[str], Path], said: bytes) -> None:
    path = play(f"say(b'x' * {len(said)})" if len(said) > MAX_LINE_BYTES else f"say({said!r})")
    assert ("damaged or unusual" if said else "with status 0") in await reason_of(path)


async def test_an_unexpected_error_names_our_line_in_the_log_and_no_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, play: Callable[[str], Path]
) -> None:
    path = play('say(b\'{"broke":"KeyError at word.py:12"}\\n\')')
    assert "damaged or unusual" in await reason_of(path)
    assert [record.where for record in caplog.records] == ["KeyError at word.py:12"]


async def test_the_process_ends_when_the_server_was_killed(tmp_path: Path, text: Path) -> None:
    server = (
        "import os, subprocess, sys; from services.rag.extraction.extractor import _command, ExtractionLimits;"
        "from pathlib import Path; out, into = os.pipe();"
        f"command = _command(Path({str(text)!r}), 'txt', ExtractionLimits());"
        "child = subprocess.Popen(command, stdout=into, start_new_session=True, pass_fds=[out]);"
        "os.read(out, 1); print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", server, cwd=extractor.ROOT, stdout=asyncio.subprocess.PIPE
    )
    orphan = psutil.Process(int((await process.communicate())[0]))
    try:
        await asyncio.to_thread(orphan.wait, 60)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.send_signal(signal.SIGKILL)


async def test_a_long_pdf_is_read_within_its_time_and_memory(tmp_path: Path) -> None:
    write_long_pdf(tmp_path / "a.pdf", 200)
    parts = await parts_of(tmp_path / "a.pdf", ExtractionLimits(memory_bytes=200_000_000, timeout_s=110))
    assert [part.pages_total for part in parts] == [200] * len(parts)
    done = [part.pages_done for part in parts]
    assert done == sorted(done)
    assert done[-1] == 200
    assert len(parts) >= 10
    assert {passage.page for part in parts for passage in part.passages} == set(range(1, 201))


async def test_several_documents_are_read_at_once(text: Path, tmp_path: Path) -> None:
    bad = tmp_path / "b.pdf"
    bad.write_bytes(b"nothing")
    good, refused = await asyncio.gather(passages_of(text), passages_of(bad), return_exceptions=True)
    assert isinstance(good, list)
    assert isinstance(refused, UnreadableDocument)
