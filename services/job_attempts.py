"""What attempts at a job have in common: what may pass, how long to wait, and the copy of the bytes they read from."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from core.private_files import make_private_folder
from domain.errors import (
    DatabaseUnavailable,
    ModelUnavailable,
    ProviderError,
    RouteurError,
    RunTimeout,
    ShuttingDown,
    StorageFull,
)

MAX_ATTEMPTS = 10
"""Without any progress between them. With the waits below, an outage of half an hour is survived."""
FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 600.0
LEFT_S = 86_400.0
"""No attempt lasts for a day."""

_MAY_PASS = (DatabaseUnavailable, ModelUnavailable, RunTimeout, ShuttingDown, StorageFull)


def may_pass(error: RouteurError | OSError) -> bool:
    """Whether the same work may well succeed later."""
    return error.retryable if isinstance(error, ProviderError) else isinstance(error, (*_MAY_PASS, OSError))


def reason_of(error: RouteurError | OSError) -> str:
    """In words safe to show to the job's owner."""
    return error.message if isinstance(error, RouteurError) else f"this machine: {error.strerror or error}"


def wait_before_next_s(tries: int, error: RouteurError | OSError, first_wait_s: float = FIRST_WAIT_S) -> float:
    """How long to wait after so many attempts in vain; as long as the provider asked for, within reason."""
    asked_s = error.retry_after_s if isinstance(error, ProviderError) and error.retry_after_s else 0.0
    return min(LONGEST_WAIT_S, max(asked_s, first_wait_s * 2.0 ** (tries - 1)))


@contextlib.asynccontextmanager
async def attempt_folder(directory: Path, name: str) -> AsyncGenerator[Path]:
    """Where an attempt's copy of the bytes and what it makes of them lie, closed to others. It goes at the end."""
    folder = directory / name
    await asyncio.to_thread(make_private_folder, folder.parent)
    await asyncio.to_thread(make_private_folder, folder)
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def remove_left_files(directory: Path, older_than_s: float = LEFT_S) -> None:
    """What processes that were killed left behind. Blocks: call it from a thread."""
    for path in directory.glob("*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime >= time.time() - older_than_s:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
