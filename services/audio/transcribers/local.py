"""Transcription on this machine: Whisper, in a process of its own that comes when needed and goes when idle."""

import asyncio
import contextlib
import logging
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from config.catalogue import ModelEntry, Weights
from domain.audio import Heard, Segment
from domain.errors import (
    BadRequest,
    InvalidParameter,
    ModelUnavailable,
    ProviderCut,
    ProviderStalled,
    RouteurError,
    ShuttingDown,
)
from services.audio.transcribers.transcriber import TranscriptionCall
from services.audio.transcribers.whisper_process import CannotLoad, ProcessGone, WhisperProcess
from services.local_models.progress import TerminalProgress
from services.local_models.weights import fetch_weights, find_weights, weights_directory

logger = logging.getLogger("routeur.audio")

PACKAGE = "faster-whisper"
LEAVING = "the server is shutting down; ask again"
IDLE_S = 300.0
CANCEL_GRACE_S = 2.0
"""A window of half a minute takes about as long on two cores; loading the model anew takes as long too."""
FETCH_AGAIN_S = 60.0
"""Calls that come sooner after a failed fetch are refused at once, not after another round of timeouts."""


class LocalTranscriber:
    """One process for all callers of this server: requests take turns.

    `timeout_s` is for the hearing of one file, `idle_s` how long the process keeps its memory when nobody asks.
    `close` ends it.
    """

    def __init__(self, *, data_dir: Path, timeout_s: float, idle_s: float = IDLE_S, name: str = "local") -> None:
        self.name = name
        self._directory = weights_directory(data_dir.absolute())  # The process works in another folder.
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._turn = asyncio.Lock()
        self._process: WhisperProcess | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._idle: asyncio.TimerHandle | None = None
        self._fetches: dict[str, _Fetch] = {}
        self._closed = False

    def unavailable_reason(self, model: ModelEntry, credential: Any = None) -> str | None:
        """`None` also while the weights are not here: the first call fetches them."""
        if model.type != "transcription" or model.weights is None:
            return f"{model.id!r} is not a transcription model with weights: it cannot run on this machine"
        if find_spec("faster_whisper") is None:
            return f"{model.id!r} needs the package {PACKAGE}: install requirements.txt"
        return None

    async def transcribe(self, call: TranscriptionCall) -> Heard:
        if (reason := self.unavailable_reason(call.model)) is not None:
            raise ModelUnavailable(reason)
        await asyncio.to_thread(call.path.stat)  # A file that is not there is the server's fault, not the caller's.
        folder = await self._fetched(call.model)
        async with self._turn:
            try:
                process = await self._started(call.model, folder)
                answer = await self._heard(process, call)
            finally:
                self._rest()
        return _heard(answer, call)

    async def close(self) -> None:
        """What is being heard ends as `ShuttingDown`; a fetch keeps what it has for the next start."""
        self._closed = True
        for fetch in self._fetches.values():
            fetch.stop()
        self._dismiss()
        async with self._turn:
            self._dismiss()  # One that was about to start.
        while self._leaving:
            await asyncio.wait(self._leaving)

    async def _heard(self, process: WhisperProcess, call: TranscriptionCall) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await process.hear(call.path, call.language, call.prompt)
        except TimeoutError as error:
            process.kill()
            problem = f"{call.model.id!r} did not end within {self._timeout_s:g} s: this machine has too much to do"
            raise ProviderStalled(problem, retryable=True) from error
        except ProcessGone as error:
            raise self._lost(call.model, str(error)) from error
        except asyncio.CancelledError:
            # The caller has gone; what was done for it is counted all the same.
            await process.let_go(CANCEL_GRACE_S)
            raise
        finally:
            call.local_work = process.work

    async def _started(self, model: ModelEntry, folder: Path) -> WhisperProcess:
        """The process with this model, a new one if need be. Who hangs up meanwhile leaves it to the next caller."""
        if self._idle is not None:
            self._idle.cancel()
        if self._closed:
            raise ShuttingDown(LEAVING)
        process = self._process
        if process is None or process.model != model.id or not process.can_be_asked:
            self._dismiss()
            process = self._process = await WhisperProcess.start(model.id, folder)
            if self._closed:
                raise ShuttingDown(LEAVING)
        try:
            await process.ready()
        except ProcessGone as error:
            raise self._lost(model, str(error)) from error
        except TimeoutError as error:
            process.kill()
            problem = f"{model.id!r} could not be loaded in time: this machine has too much to do"
            raise ProviderStalled(problem, retryable=True) from error
        except CannotLoad as error:
            logger.error("local transcription model cannot be loaded", extra={"model": model.id, "reason": str(error)})
            problem = f"{model.id!r} cannot be loaded: install requirements.txt anew, or remove its weights and run "
            raise ModelUnavailable(problem + f"`python app.py models pull {model.id}`") from error
        return process

    def _lost(self, model: ModelEntry, how: str) -> RouteurError:
        if self._closed:
            return ShuttingDown(LEAVING)
        logger.warning("local transcription ended early", extra={"model": model.id, "reason": how})
        return ProviderCut(f"{model.id!r} stopped on this machine: {how}; try again", retryable=True)

    def _rest(self) -> None:
        """From now on the process is idle, unless the next call comes."""
        if not self._closed:
            self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._on_idle)

    def _on_idle(self) -> None:
        if not self._turn.locked():
            self._dismiss()

    def _dismiss(self) -> None:
        """Let the process end, in the background."""
        if self._idle is not None:
            self._idle.cancel()
        if self._process is not None:
            leaving = asyncio.create_task(self._process.end(), name="whisper-end")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            self._process = None

    async def _fetched(self, model: ModelEntry) -> Path:
        """The folder of the model's files, fetched by the first call that needs them; the others wait for it."""
        weights = model.weights
        if weights is None:
            raise ModelUnavailable(f"{model.id!r} has no weights")
        while (path := find_weights(weights, self._directory)) is None:
            if self._closed:
                raise ShuttingDown(LEAVING)
            fetch = self._fetches.get(model.id)
            if fetch is None or fetch.is_old:
                fetch = self._fetches[model.id] = _Fetch(model.id, weights, self._directory)
            if await fetch.wait():
                self._fetches.pop(model.id, None)
            elif not self._closed:
                raise ModelUnavailable(
                    f"the weights of {model.id!r} could not be fetched: run `python app.py models pull {model.id}` "
                    "on the server, which says why, or name another model"
                )
        return path.parent


class _Fetch:
    """Weights being fetched in a thread, for all who wait. Who stops waiting does not stop it."""

    def __init__(self, model: str, weights: Weights, directory: Path) -> None:
        self._model, self._weights, self._directory = model, weights, directory
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[bool] = self._loop.create_future()
        self._stopped = threading.Event()
        self._ended_s: float | None = None
        # A daemon: a server that is told to end does not wait for a download.
        threading.Thread(target=self._fetch, name=f"fetch-{model}", daemon=True).start()

    @property
    def is_old(self) -> bool:
        """Whether it ended long enough ago to try again."""
        return self._ended_s is not None and self._loop.time() - self._ended_s >= FETCH_AGAIN_S

    async def wait(self) -> bool:
        """Whether the weights are here."""
        return await asyncio.shield(self._result)

    def stop(self) -> None:
        """At the next block that arrives. What has arrived is kept; nobody waits any longer."""
        self._stopped.set()
        self._end(False)

    def _fetch(self) -> None:
        logger.info("fetching weights", extra={"model": self._model, "size_bytes": self._weights.total_bytes})
        lines = TerminalProgress(live=False)

        def progress(done: int, total: int | None, label: str) -> None:
            if self._stopped.is_set():
                raise _Stopped
            lines(done, total, label)

        here = False
        try:
            fetch_weights(self._weights, self._directory, progress=progress)
            here = True
        except _Stopped:
            pass
        except (ModelUnavailable, OSError) as error:
            logger.warning("weights could not be fetched", extra={"model": self._model, "reason": str(error)})
        finally:
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits.
                self._loop.call_soon_threadsafe(self._end, here)

    def _end(self, here: bool) -> None:
        if not self._result.done():
            self._ended_s = self._loop.time()
            self._result.set_result(here)


class _Stopped(Exception):
    """The server is shutting down."""


def _heard(answer: dict[str, Any], call: TranscriptionCall) -> Heard:
    """Raises what the process could not say."""
    match answer:
        case {"failed": "unknown language"}:
            raise InvalidParameter("language", f"{call.language!r} is not a language that {call.model.id!r} knows")
        case {"failed": "unreadable"}:
            raise BadRequest("the recording cannot be decoded: it is damaged")
        case {"failed": kind}:
            logger.warning("local transcription failed", extra={"model": call.model.id, "error": kind})
            raise ProviderCut(f"{call.model.id!r} failed on this machine; try again", retryable=True)
    segments = tuple(Segment(start_s, end_s, text) for start_s, end_s, text in answer["segments"])
    return Heard(answer["text"], answer["language"], segments)
