"""The process that owns Whisper: says what is heard in one file after the other, and what that cost.

Started by `whisper_process.py`. It imports the standard library first, and faster-whisper when it loads the model. Each
line on its pipes is a JSON object:
    → {"hear": 7, "path": …, "language": …, "prompt": …}     one at a time
    → {"cancel": 7}
    ← {"ready": true} once the model is loaded, or {"cannot_load": …}
    ← {"hear": 7, "cpu_s": …, "ram_gb_s": …}                 twice a second: what it cost so far
    ← {"hear": 7, "cpu_s": …, "ram_gb_s": …, "text": …, "language": …, "segments": [[start_s, end_s, text], …]}
      or, in place of the text, "failed": "unreadable", "unknown language", "cancelled" or the kind of an error
It ends when its input does, or when the server that started it is gone.
"""

import argparse
import contextlib
import json
import os
import queue
import selectors
import sys
import threading
import time
from pathlib import Path
from typing import Any

from services.local_models.child import OOM_SCORE, resident_bytes, usable_cores

NICENESS = 5
"""The server answers first; a recording can wait a moment."""
SETTINGS: dict[str, Any] = {
    # Of our own French sentences with a little noise, 7 words in 100 are wrong; with a beam of 1, 11 are, in two thirds
    # of the time.
    "beam_size": 5,
    # On silence and noise Whisper invents words ("You", "..."). Where nobody speaks it is not asked.
    "vad_filter": True,
    # What a window was wrong about would mislead the next ones: more words are wrong with it than without.
    "condition_on_previous_text": False,
    # When it repeats itself or is not sure it tries again by chance: three times for half a minute, where its own six
    # with five candidates each can take as long as the sound. As many words are wrong.
    "temperature": (0.0, 0.4, 0.8),
    "best_of": 3,
}
STRETCH_S = 120.0
"""What is worked on at once: of ten minutes 0.5 GB are held, and 0.9 GB if all were. As many words are wrong."""
RATE = 16_000
BYTES_PER_GB = 1e9
_BEAT_S = 0.5
_READ_BYTES = 65_536


class Meter:
    """What this process consumed. What it does before its first call, loading, is part of that call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cpu_s, self._ram_gb_s, self._seen_s = 0.0, 0.0, time.monotonic()

    def begin(self) -> None:
        with self._lock:
            self._cpu_s, self._ram_gb_s, self._seen_s = time.process_time(), 0.0, time.monotonic()

    def read(self) -> dict[str, float]:
        """Since the beginning: CPU-seconds of all threads, gigabytes x seconds."""
        with self._lock:
            now_s = time.monotonic()
            self._ram_gb_s += resident_bytes() / BYTES_PER_GB * (now_s - self._seen_s)
            self._seen_s = now_s
            return {"cpu_s": time.process_time() - self._cpu_s, "ram_gb_s": self._ram_gb_s}


class Conversation:
    """The pipes. A thread reads what is asked while the model works, and tells what it costs meanwhile."""

    def __init__(self, input_: int, output: int, parent: int) -> None:
        self._input, self._output, self._parent = input_, output, parent
        self._questions: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._at_work: int | None = None
        self._cancelled = 0
        self._meter = Meter()
        self._is_first = True

    def listen(self) -> None:
        """In its thread, to the end of the process."""
        unread = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._input, selectors.EVENT_READ)
            while os.getppid() == self._parent:
                if selector.select(_BEAT_S):
                    received = os.read(self._input, _READ_BYTES)
                    if not received:
                        break
                    *lines, unread = (unread + received).split(b"\n")
                    for line in lines:
                        self._take(json.loads(line))
                self._beat()
        os._exit(0)  # Nobody waits for what is being heard.

    def next_question(self) -> dict[str, Any]:
        question = self._questions.get()
        if not self._is_first:
            self._meter.begin()
        self._is_first = False
        with self._writing:
            self._at_work = question["hear"]
        return question

    def is_cancelled(self, call: int) -> bool:
        return self._cancelled >= call

    def answer(self, call: int, found: dict[str, Any]) -> None:
        with self._writing:
            self._at_work = None
            self._say({"hear": call, **self._meter.read(), **found})

    def say(self, message: dict[str, Any]) -> None:
        with self._writing:
            self._say(message)

    def _take(self, message: dict[str, Any]) -> None:
        if "cancel" in message:
            self._cancelled = message["cancel"]
        else:
            self._questions.put(message)

    def _beat(self) -> None:
        with self._writing:
            if self._at_work is not None:
                self._say({"hear": self._at_work, **self._meter.read()})

    def _say(self, message: dict[str, Any]) -> None:
        unsaid = json.dumps(message).encode() + b"\n"
        try:
            while unsaid:
                unsaid = unsaid[os.write(self._output, unsaid) :]
        except BrokenPipeError:
            os._exit(0)  # The server is gone.


class Ear:
    """The loaded model."""

    def __init__(self, folder: Path) -> None:
        import ctranslate2  # type: ignore[import-untyped]  # It carries no types, nor does the next.
        from faster_whisper import WhisperModel  # type: ignore[import-untyped]

        # On two cores that serve requests as well, two threads take longer than one, and a third more CPU.
        threads = max(1, usable_cores() - 1)
        self._model = WhisperModel(
            str(folder), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
        )
        self._languages = frozenset(self._model.supported_languages)
        self._seed = ctranslate2.set_random_seed

    def hear(self, conversation: Conversation, question: dict[str, Any]) -> dict[str, Any]:
        """What is said, or why it is not known."""
        language, prompt = question["language"], question["prompt"] or None
        if language is not None and language not in self._languages:
            return {"failed": "unknown language"}
        sound = _decoded(question["path"])
        if sound is None:
            return {"failed": "unreadable"}
        self._seed(0)  # Where it falls back to chance, the same file still gives the same text.
        heard: list[tuple[float, float, str]] = []
        for start, end in _stretches(sound):
            segments, told = self._model.transcribe(
                sound[start:end], language=language, initial_prompt=prompt, **SETTINGS
            )
            for segment in segments:
                if conversation.is_cancelled(question["hear"]):
                    return {"failed": "cancelled"}
                heard += _phrase(segment, start / RATE, end / RATE)
            if heard:
                language, prompt = told.language, None
        text = " ".join(text for _, _, text in heard)
        return {"text": text, "language": language, "segments": heard}


def _decoded(path: str) -> Any:
    """The sound as numbers, `RATE` a second; `None` where the file holds none."""
    from av.error import FFmpegError
    from faster_whisper.audio import decode_audio  # type: ignore[import-untyped]

    try:
        return decode_audio(path, sampling_rate=RATE)
    except (FFmpegError, IndexError):  # IndexError: of several streams, none is sound.
        return None


def _stretches(sound: Any) -> list[tuple[int, int]]:
    """Where somebody speaks, from pause to pause."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps  # type: ignore[import-untyped]

    if not len(sound):
        return []
    pauses = VadOptions(min_silence_duration_ms=300, max_speech_duration_s=STRETCH_S)
    found: list[tuple[int, int]] = []
    for speech in get_speech_timestamps(sound, pauses):
        if found and speech["end"] - found[-1][0] <= STRETCH_S * RATE:
            found[-1] = (found[-1][0], speech["end"])
        else:
            found.append((speech["start"], speech["end"]))
    return found


def _phrase(segment: Any, start_s: float, end_s: float) -> list[tuple[float, float, str]]:
    """The words of a segment at their time in the file; none for one of dots."""
    text = segment.text.strip()
    if not any(sign.isalnum() for sign in text):
        return []
    until_s = min(start_s + segment.end, end_s)
    return [(round(min(start_s + segment.start, until_s), 3), round(until_s, 3), text)]


def main() -> None:
    wanted = argparse.ArgumentParser(description="Hear recordings; started by the server itself.")
    wanted.add_argument("folder", type=Path)
    wanted.add_argument("parent", type=int)
    given = wanted.parse_args()
    os.nice(NICENESS)
    os.umask(0o077)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
    conversation = Conversation(sys.stdin.fileno(), _own_output(), given.parent)
    threading.Thread(target=conversation.listen, name="conversation", daemon=True).start()
    try:
        ear = Ear(given.folder)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        conversation.say({"cannot_load": f"{type(error).__name__}: {error}"})
        return
    conversation.say({"ready": True})
    while True:
        question = conversation.next_question()
        try:
            found = ear.hear(conversation, question)
        except Exception as error:  # noqa: BLE001 — a broken file raises anything in the libraries that read it.
            found = {"failed": type(error).__name__}
        conversation.answer(question["hear"], found)


def _own_output() -> int:
    """The pipe to the server, which no library's `print` reaches."""
    output = os.dup(sys.stdout.fileno())
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return output


if __name__ == "__main__":
    main()
