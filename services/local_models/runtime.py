"""A local model, as the server sees it: starting, ready, failed or absent; its address, and what each call costs."""

import asyncio
import contextlib
import importlib.util
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

from config.catalogue import ModelEntry
from config.settings import Settings
from domain.errors import ConfigurationError, ModelUnavailable
from domain.usage import LocalWork
from services.local_models.control import ControlClosed, ControlConnection
from services.local_models.process import Child, ChildPlan, file_name, socket_path, start_child
from services.local_models.weights import find_weights, weights_directory

logger = logging.getLogger("routeur.local_models")

State = Literal["starting", "ready", "failed", "absent"]

LOAD_TIMEOUT_S = 300.0
"""A large model on a slow disk; the default one loads in a second."""
RESTART_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
STEADY_S = 60.0
"""A model that served this long before it died is restarted as if for the first time."""
_POLL_S = 0.05
_WEIGHTS_POLL_S = 2.0
_WAY_OUT = "or set OPENAI_API_KEY, MISTRALAI_API_KEY or LOCAL_BASE_URL to use another model"


@dataclass(slots=True)
class Meter:
    """What one call consumed, known once it is over; `None` when the process died meanwhile."""

    work: LocalWork | None = None


class LocalRuntime:
    """Keeps one local model running for this worker. All workers share one process; whoever comes first starts it."""

    def __init__(self, settings: Settings, entry: ModelEntry) -> None:
        if entry.weights is None:
            raise ConfigurationError(f"LOCAL_MODEL={entry.id!r} has no `weights` in config/models.yaml")
        self.state: State = "starting"
        self.reason: str | None = f"{entry.id} is starting"
        self._entry = entry
        self._weights = entry.weights
        self._directory = weights_directory(settings.data_dir)
        run_directory = settings.data_dir / "run"
        self._plan = ChildPlan(
            model=entry.id,
            weights=self._directory / entry.weights.filename,
            context_tokens=min(settings.local_context_tokens, entry.context.tokens),
            parallel=settings.local_parallel,
            socket=socket_path(run_directory, entry.id),
            lock=run_directory / f"local-{file_name(entry.id)}.lock",
            log=settings.data_dir / "logs" / "local-model.log",
        )
        self._base_url: str | None = None
        self._api_key: SecretStr | None = None
        self._changed = asyncio.Event()
        self._connection: ControlConnection | None = None
        self._child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns at once; the model comes up, and is kept up, in the background."""
        self._keeper = asyncio.create_task(self._keep_up(), name="local-model")
        self._keeper.add_done_callback(self._on_keeper_done)

    async def stop(self) -> None:
        """Take leave of the process. It ends if no other worker is there."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        stays = await self._take_leave()
        if self._child is not None:
            if not stays:
                await self._child.wait(1.5)
            self._child.release()
            self._child = None
        self._become("failed", f"{self._entry.id} is stopped")

    async def base_url(self, timeout_s: float) -> str:
        """Where the model answers, OpenAI-style. Waits while it starts; raises `ModelUnavailable` with the way out."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.state == "starting":
                    await self._changed.wait()
        except TimeoutError as error:
            raise ModelUnavailable(f"{self.reason}: not ready after {timeout_s:g} s") from error
        if self.state == "ready" and self._base_url is not None:
            return self._base_url
        raise ModelUnavailable(self.reason or f"{self._entry.id} is {self.state}")

    @property
    def api_key(self) -> SecretStr | None:
        """What the process requires of its callers, made at its start; `None` while it is not ready."""
        return self._api_key

    @contextlib.asynccontextmanager
    async def metered(self) -> AsyncIterator[Meter]:
        """Around one call: `meter.work` is set on the way out, also when the caller hangs up."""
        meter = Meter()
        connection = self._connection if self.state == "ready" else None
        call = connection.begin() if connection else 0
        try:
            yield meter
        finally:
            if connection is not None:
                meter.work = await connection.end(call)

    async def _keep_up(self) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while await self._is_possible():
            ready_at: float | None = None
            try:
                connection = await self._connect()
                await self._greet(connection)
                ready_at = loop.time()
                await connection.closed.wait()
                problem = "its process ended"
            except (ControlClosed, OSError) as error:
                problem = str(error)
            problem = await self._bury(problem)
            if ready_at is not None and loop.time() - ready_at >= STEADY_S:
                failures = 0
            delay_s = RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)]
            failures += 1
            given_up = failures >= len(RESTART_DELAYS_S)
            logger.warning("local model down", extra={"model": self._entry.id, "reason": problem, "retry_s": delay_s})
            reason = f"{self._entry.id} is down ({problem}); tried again every {delay_s:g} s; see {self._plan.log}"
            self._become("failed" if given_up else "starting", f"{reason}, {_WAY_OUT}" if given_up else reason)
            await asyncio.sleep(delay_s)

    async def _is_possible(self) -> bool:
        """Waits until the weights are there; `False` when nothing can come of it."""
        if importlib.util.find_spec("xllamacpp") is None:
            self._become("failed", f"{self._entry.id} needs xllamacpp: `pip install xllamacpp`, {_WAY_OUT}")
            return False
        while find_weights(self._weights, self._directory) is None:
            self._become(
                "absent",
                f"the weights of {self._entry.id} are not in {self._directory}: "
                f"run `python app.py models pull {self._entry.id}`, {_WAY_OUT}",
            )
            await asyncio.sleep(_WEIGHTS_POLL_S)  # A pull while the server runs is enough, without a restart.
        if self.state == "absent":
            self._become("starting", f"{self._entry.id} is starting")
        return True

    async def _connect(self) -> ControlConnection:
        """To the process of another worker, or to our own, started if need be."""
        deadline = asyncio.get_running_loop().time() + LOAD_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            try:
                self._connection = await ControlConnection.open(self._plan.socket)
            except (FileNotFoundError, ConnectionRefusedError):
                if self._child is None:
                    self._child = start_child(self._plan)
                elif self._child.has_ended:
                    raise ControlClosed("its process ended") from None
                await asyncio.sleep(_POLL_S)
            else:
                return self._connection
        raise ControlClosed(f"it did not start in {LOAD_TIMEOUT_S:g} s")

    async def _greet(self, connection: ControlConnection) -> None:
        hello = await connection.hello(LOAD_TIMEOUT_S)
        if "error" in hello:
            raise ControlClosed(hello["error"])
        self._base_url = hello["base_url"]
        self._api_key = SecretStr(hello["api_key"])
        logger.info("local model ready", extra={"model": self._entry.id, "model_pid": hello["pid"]})
        self._become("ready", None)

    async def _bury(self, problem: str) -> str:
        """After a failure: close, reap what was ours, by force if it hangs, and say what is known of the cause."""
        await self._take_leave()
        if self._child is None:
            return problem
        if not await self._child.wait(2.0):
            await self._child.end()
        problem = f"{problem}; {self._child.last_words()}"
        self._child = None
        return problem

    async def _take_leave(self) -> bool:
        """Close the connection; whether the process stays for others."""
        if self._connection is None:
            return True
        connection, self._connection = self._connection, None
        stays = await connection.goodbye()
        await connection.close()
        return stays

    def _become(self, state: State, reason: str | None) -> None:
        if state != "ready":
            self._base_url = self._api_key = None
        self.state, self.reason = state, reason
        self._changed.set()
        self._changed = asyncio.Event()

    def _on_keeper_done(self, keeper: asyncio.Task[None]) -> None:
        error = None if keeper.cancelled() else keeper.exception()
        if error is not None:
            logger.error("local model abandoned", exc_info=error, extra={"model": self._entry.id})
            self._become("failed", f"{self._entry.id} is down; see the log, {_WAY_OUT}")
