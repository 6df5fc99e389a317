"""The real local Whisper: what it hears in French, English and silence, and that its process ends when it must."""

import asyncio
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio

from domain.errors import (
    BadRequest,
    InvalidParameter,
    ModelUnavailable,
    ProviderCut,
    ProviderStalled,
    ShuttingDown,
)
from services.audio.transcribers.local import LocalTranscriber
from services.audio.transcribers.transcriber import TranscriptionCall
from services.audio.transcribers.whisper_process import WhisperProcess
from tests.speech_in_mp3 import RATE, speech, write_mp3
from tests.tiny_model import SHARED_DATA
from tests.whisper_model import whisper_entry, whisper_folder

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[3]
WAIT_S = 30.0
"""For what takes a second or two on a machine that has nothing else to do."""
FRENCH = (
    "La réunion de mardi matin est reportée à la semaine prochaine.",
    "Le médecin recommande de marcher une heure chaque jour.",
    "Nous cherchons un appartement près de la gare, avec deux chambres et un balcon.",
    "Le vent souffle fort sur la côte et les bateaux restent au port.",
)
ENGLISH = (
    "The meeting on Tuesday morning has been moved to next week.",
    "Could you send me the report before the end of the day?",
    "We are looking for a flat near the station with two bedrooms and a balcony.",
    "The council voted to repair the swimming pool and the school.",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("speech")


@pytest.fixture(scope="module")
def short(folder: Path) -> Path:
    return write_mp3(folder / "short.mp3", speech(FRENCH[0]))


@pytest.fixture(scope="module")
def endless(folder: Path) -> Path:
    """Ten minutes, the better part of a minute's work. What is said again within half a minute would take longer."""
    talk = speech(*FRENCH, *ENGLISH)
    return write_mp3(folder / "endless.mp3", np.tile(talk, 600 * RATE // len(talk)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whisper() -> AsyncIterator[LocalTranscriber]:
    """One process for the module. A test that ends it costs the next one a second."""
    whisper_folder()
    transcriber = LocalTranscriber(data_dir=SHARED_DATA, timeout_s=100, idle_s=100)
    yield transcriber
    await transcriber.close()


MakeTranscriber = Callable[..., LocalTranscriber]


@pytest_asyncio.fixture(loop_scope="module")
async def own() -> AsyncIterator[MakeTranscriber]:
    """Makes a transcriber that the test may spoil."""
    whisper_folder()
    made: list[LocalTranscriber] = []

    def make(timeout_s: float = 100, idle_s: float = 100) -> LocalTranscriber:
        made.append(LocalTranscriber(data_dir=SHARED_DATA, timeout_s=timeout_s, idle_s=idle_s))
        return made[-1]

    yield make
    for transcriber in made:
        await transcriber.close()


def call_of(path: Path, language: str | None = None, prompt: str | None = None) -> TranscriptionCall:
    return TranscriptionCall(whisper_entry(), path, 1.0, language, prompt)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def word_error_rate(said: str, heard: str) -> float:
    """Words to change, add or remove, by words said."""
    expected, found = words(said), words(heard)
    row = list(range(len(found) + 1))
    for line, word in enumerate(expected, 1):
        above, row = row, [line]
        for place, other in enumerate(found, 1):
            row.append(min(above[place] + 1, row[-1] + 1, above[place - 1] + (word != other)))
    return row[-1] / len(expected)


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not fact():  # noqa: ASYNC110 — nothing tells a test what happens inside.
            await asyncio.sleep(0.01)


async def at_work(transcriber: LocalTranscriber) -> WhisperProcess:
    """Its process, once it hears and has said what that costs so far."""
    await until(lambda: (process := transcriber._process) is not None and process._is_asked and bool(process.work))
    assert transcriber._process is not None
    return transcriber._process


def is_gone(pid: int) -> bool:
    """Without waiting for it as its parent: that is for asyncio."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("sentences", "voice", "language"), [(FRENCH, "fr-FR", "fr"), (ENGLISH, "en-US", "en")], ids=["french", "english"]
)
async def test_it_hears_what_is_said_and_finds_the_language(whisper, folder, sentences, voice, language):
    sound = speech(*sentences, voice=voice)
    call = call_of(write_mp3(folder / f"{language}.mp3", sound))
    heard = await whisper.transcribe(call)
    assert word_error_rate(" ".join(sentences), heard.text) <= 0.15
    assert heard.language == language
    assert heard.segments is not None
    times = [time_s for segment in heard.segments for time_s in (segment.start_s, segment.end_s)]
    assert times == sorted(times)
    assert 0 <= times[0] < 1
    assert times[-1] == pytest.approx(len(sound) / RATE, abs=1.5)
    assert times[-1] <= len(sound) / RATE + 0.2  # MP3 pads its last frame.
    assert " ".join(segment.text for segment in heard.segments) == heard.text
    assert len(heard.segments) > 1
    assert call.usage is None
    assert call.local_work is not None
    assert 0.05 < call.local_work.cpu_s < 60
    assert 0.05 < call.local_work.ram_gb_s < 60


async def test_times_count_from_the_beginning_of_the_file_also_after_long_silences(whisper, folder):
    silence, first, second = np.zeros(130 * RATE, np.int16), speech(FRENCH[0]), speech(FRENCH[1])
    path = write_mp3(folder / "silences.mp3", np.concatenate([silence[: 5 * RATE], first, silence, second]))
    heard = await whisper.transcribe(call_of(path, "fr"))
    assert word_error_rate(f"{FRENCH[0]} {FRENCH[1]}", heard.text) <= 0.2
    assert heard.segments is not None
    first_s, second_s = heard.segments[0].start_s, heard.segments[-1].start_s
    assert first_s == pytest.approx(5, abs=1)
    assert second_s == pytest.approx(5 + len(first) / RATE + 130, abs=1)


async def test_the_prompt_tells_how_a_name_is_spelled(whisper, folder):
    path = write_mp3(folder / "name.mp3", speech("Madame Kelvane a présenté le budget."))
    without = await whisper.transcribe(call_of(path, "fr"))
    told = await whisper.transcribe(call_of(path, "fr", "Réunion avec Madame Kelvane."))
    assert "Kelvane" not in without.text
    assert told.text == "Madame Kelvane a présenté le budget."


@pytest.mark.parametrize("prompt", [None, "Réunion avec Madame Kelvane."])
@pytest.mark.parametrize("language", [None, "fr"])
async def test_nothing_is_heard_in_silence_noise_or_hum(whisper, folder, language, prompt):
    count = np.arange(15 * RATE)
    noise = np.random.default_rng(1).normal(0, 1500, 15 * RATE)
    hum = 3000 * np.sin(2 * np.pi * 50 * count / RATE)
    for name, sound in {"silence": np.zeros(5 * RATE), "noise": noise, "hum": hum, "click": hum[:800]}.items():
        path = write_mp3(folder / f"{name}.mp3", sound.astype(np.int16))
        heard = await whisper.transcribe(call_of(path, language, prompt))
        assert (heard.text, heard.segments, heard.language) == ("", (), language), name


async def test_what_is_no_sound_a_language_it_does_not_know_and_a_missing_file_are_refused(whisper, folder, short):
    broken = folder / "broken.mp3"
    broken.write_bytes(b"<html>not a recording</html>" * 100)
    with pytest.raises(BadRequest, match="cannot be decoded"):
        await whisper.transcribe(call_of(broken))
    with pytest.raises(InvalidParameter, match="'tlh' is not a language that 'whisper-base' knows"):
        await whisper.transcribe(call_of(short, "tlh"))
    with pytest.raises(FileNotFoundError):
        await whisper.transcribe(call_of(folder / "none.mp3"))


async def test_requests_take_turns_in_one_process(whisper, short):
    calls = [call_of(short, "fr") for _ in range(2)]
    heard = await asyncio.gather(*map(whisper.transcribe, calls))
    assert len({one.text for one in heard}) == 1
    assert all(call.local_work for call in calls)
    children = [child for child in psutil.Process().children() if "whisper_child" in " ".join(child.cmdline())]
    assert [child.pid for child in children] == [whisper._process.pid]


async def test_a_call_that_waits_its_turn_may_leave(whisper, short):
    first = asyncio.create_task(whisper.transcribe(call_of(short, "fr")))
    second, third = (asyncio.create_task(whisper.transcribe(call_of(short, "fr"))) for _ in range(2))
    await until(whisper._turn.locked)
    second.cancel()
    assert (await asyncio.gather(first, third))[1].text
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_a_cancelled_call_frees_the_process_soon_and_is_counted(whisper, short, endless):
    call = call_of(endless, "fr")
    hearing = asyncio.create_task(whisper.transcribe(call))
    process = await at_work(whisper)
    hearing.cancel()
    began_s = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await hearing
    assert time.monotonic() - began_s < WAIT_S
    assert call.local_work is not None
    assert call.local_work.cpu_s > 0
    await until(lambda: process.can_be_asked or is_gone(process.pid))
    assert (await whisper.transcribe(call_of(short, "fr"))).text


async def test_a_process_told_to_stop_lives_on_and_keeps_its_model(whisper, short, endless):
    await whisper.transcribe(call_of(short, "fr"))
    process = whisper._process
    hearing = asyncio.create_task(process.hear(endless, "fr", None))
    await until(lambda: process._is_asked and process.work is not None)
    hearing.cancel()
    await asyncio.wait([hearing])
    await process.let_go(grace_s=100)
    assert process.can_be_asked
    assert process.work.cpu_s < 20  # Of a minute.
    assert (await process.hear(short, "fr", None))["text"]
    assert process.work.cpu_s < 10


async def test_a_killed_process_is_a_retryable_error_and_the_next_call_has_a_new_one(whisper, short, endless):
    call = call_of(endless, "fr")
    hearing = asyncio.create_task(whisper.transcribe(call))
    process = await at_work(whisper)
    psutil.Process(process.pid).kill()
    with pytest.raises(ProviderCut, match="SIGKILL") as caught:
        await hearing
    assert caught.value.retryable
    assert call.local_work is not None  # What it cost until half a second before.
    assert (await whisper.transcribe(call_of(short, "fr"))).text
    assert whisper._process.pid != process.pid


async def test_a_process_killed_while_idle_is_not_noticed_by_the_next_call(whisper, short):
    await whisper.transcribe(call_of(short, "fr"))
    psutil.Process(whisper._process.pid).kill()
    await until(lambda: is_gone(whisper._process.pid))
    async with asyncio.timeout(WAIT_S):
        await whisper._process._reading
    assert (await whisper.transcribe(call_of(short, "fr"))).text


async def test_a_hung_process_is_a_stall_and_is_killed(own, endless):
    transcriber = own(timeout_s=1)
    call = call_of(endless, "fr")
    hearing = asyncio.create_task(transcriber.transcribe(call))
    await until(lambda: transcriber._process is not None and transcriber._process._is_asked)
    process = transcriber._process
    psutil.Process(process.pid).send_signal(signal.SIGSTOP)
    with pytest.raises(ProviderStalled, match="did not end within 1 s") as caught:
        await hearing
    assert caught.value.retryable
    await until(lambda: is_gone(process.pid))


async def test_an_idle_process_goes_and_comes_again_without_the_servers_secrets(own, short, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-server")
    transcriber = own(idle_s=0.5)
    for _ in range(2):
        hearing = asyncio.create_task(transcriber.transcribe(call_of(short, "fr")))
        await until(lambda: transcriber._process is not None)
        process = psutil.Process(transcriber._process.pid)
        await asyncio.wait([hearing])
        environment = process.environ()
        assert not any("secret" in value for value in environment.values())
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert process.net_connections() == []
        assert process.nice() > psutil.Process().nice()
        assert hearing.result().text
        await until(lambda: transcriber._process is None)
        await until(partial(is_gone, process.pid))


async def test_closing_ends_the_process_and_refuses_those_who_wait(own, short, endless):
    transcriber = own()
    hearing = asyncio.create_task(transcriber.transcribe(call_of(endless, "fr")))
    waiting = asyncio.create_task(transcriber.transcribe(call_of(short, "fr")))
    process = await at_work(transcriber)
    await transcriber.close()
    assert not psutil.pid_exists(process.pid)
    for refused in (hearing, waiting, transcriber.transcribe(call_of(short, "fr"))):
        with pytest.raises(ShuttingDown):
            await refused


SERVER = """
import asyncio, sys
from pathlib import Path
from services.audio.transcribers.local import LocalTranscriber
from services.audio.transcribers.transcriber import TranscriptionCall
from tests.whisper_model import SHARED_DATA, whisper_entry

assert not {"faster_whisper", "ctranslate2", "av", "numpy", "onnxruntime"} & sys.modules.keys()

async def main():
    transcriber = LocalTranscriber(data_dir=SHARED_DATA, timeout_s=100)
    hearing = asyncio.create_task(transcriber.transcribe(TranscriptionCall(whisper_entry(), Path(sys.argv[1]), 600)))
    while transcriber._process is None or transcriber._process.work is None:
        await asyncio.sleep(0.02)
    print(transcriber._process.pid, flush=True)
    await hearing

asyncio.run(main())
"""


async def test_the_process_ends_with_a_server_that_is_killed_and_the_server_imports_nothing_heavy(endless):
    whisper_folder()
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, endless, cwd=ROOT, stdout=PIPE)
    assert server.stdout is not None
    pid = int(await server.stdout.readline())
    assert psutil.pid_exists(pid)
    server.kill()
    await server.communicate()
    await until(lambda: is_gone(pid))


async def test_it_says_what_it_cannot_serve(whisper):
    entry = whisper_entry()
    assert whisper.unavailable_reason(entry) is None
    other = entry.model_copy(update={"weights": None})
    reason = whisper.unavailable_reason(other)
    assert "cannot run on this machine" in reason
    with pytest.raises(ModelUnavailable, match="cannot run on this machine"):
        await whisper.transcribe(TranscriptionCall(other, Path("any.mp3"), 1.0))


async def test_without_its_package_it_says_what_to_install(whisper, monkeypatch):
    monkeypatch.setattr("services.audio.transcribers.local.find_spec", lambda _: None)
    assert "faster-whisper: install requirements.txt" in whisper.unavailable_reason(whisper_entry())
