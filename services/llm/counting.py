"""The one place where calls to models are counted, however they end."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from config.catalogue import ModelEntry
from domain.errors import RouteurError
from domain.usage import Call, CallStatus, LocalWork, TokenUsage
from services.llm.call_meter import CallMeter
from services.llm.providers.provider import Delta, ModelCall, Provider

logger = logging.getLogger("routeur.router")

ResultT = TypeVar("ResultT")
Measured = tuple[TokenUsage, bool, LocalWork | None]
"""What a call consumed, whether that is an estimate, and the work of this machine."""


async def counted(provider: Provider, call: ModelCall, on_call: Callable[[Call], None]) -> AsyncGenerator[Delta]:
    """The provider's deltas, counted. Also reached when the client hangs up: what was consumed is still counted."""
    meter = CallMeter(call)
    status: CallStatus = "cancelled"
    failure: BaseException | None = None
    try:
        deltas = provider.stream(call)
        try:
            async for delta in deltas:
                if isinstance(delta, list):
                    meter.saw_pieces(delta)
                else:
                    meter.saw_chunk(delta)
                yield delta
        finally:
            await deltas.aclose()
        status = "succeeded"
    except RouteurError as error:
        status, failure = "failed", error
        logger.warning("call failed", extra={"model": call.model.id, "code": error.code, "reason": error.message})
        raise
    except (GeneratorExit, asyncio.CancelledError) as hang_up:
        failure = hang_up
        raise
    except Exception as error:
        # A fault of our own, or of a vendor's class: what was consumed is counted all the same.
        status, failure = "failed", error
        raise
    finally:
        on_call(meter.finish(status, failure))


async def counted_once(
    model: ModelEntry,
    doing: Awaitable[ResultT],
    on_call: Callable[[Call], None],
    measure: Callable[[BaseException | None], Measured],
) -> ResultT:
    """The result of a call that answers in one piece. `measure` is told how it failed, `None` when it did not."""
    started = time.perf_counter()
    status: CallStatus = "failed"
    failure: BaseException | None = None
    try:
        result = await doing
        status = "succeeded"
    except RouteurError as error:
        failure = error
        logger.warning("call failed", extra={"model": model.id, "code": error.code, "reason": error.message})
        raise
    except asyncio.CancelledError as hang_up:
        status, failure = "cancelled", hang_up
        raise
    except Exception as error:
        failure = error
        raise
    finally:
        usage, estimated, local_work = measure(failure)
        on_call(
            Call(
                model=model.id,
                provider=model.provider,
                usage=usage,
                estimated=estimated,
                status=status,
                latency_s=time.perf_counter() - started,
                local_work=local_work,
                error_code=failure.code if isinstance(failure, RouteurError) else None,
            )
        )
    return result
