"""The one place where calls to models are counted, however they end."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from domain.errors import RouteurError
from domain.usage import Call, CallStatus
from services.llm.call_meter import CallMeter
from services.llm.providers.provider import Delta, ModelCall, Provider

logger = logging.getLogger("routeur.router")


async def counted(provider: Provider, call: ModelCall, on_call: Callable[[Call], None]) -> AsyncGenerator[Delta]:
    """The provider's deltas, counted. Also reached when the client hangs up: what was consumed is still counted."""
    meter = CallMeter(call)
    status: CallStatus = "cancelled"
    failure: BaseException | None = None
    try:
        async with aclosing(provider.stream(call)) as deltas:
            async for delta in deltas:
                if isinstance(delta, list):
                    meter.saw_pieces(delta)
                else:
                    meter.saw_chunk(delta)
                yield delta
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
