"""The tool `clock`: what day and time it is."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from langchain_core.tools import BaseTool, StructuredTool, ToolException

ASKS_FOR_TIME = (
    r"(?i)\b(heure|date|jour|aujourd.hui|demain|hier|semaine|mois|année|time|date|day|today|tomorrow|yesterday|week|"
    r"month|year)s?\b"
)


def _now() -> datetime:
    return datetime.now(UTC)


def create_clock(timezone: str, now: Callable[[], datetime] = _now) -> BaseTool:
    """The tool as models are shown it; `timezone` is where it is when the model names no other."""

    async def tell_time(
        timezone: Annotated[str, "An IANA time zone such as `Europe/Paris` or `Asia/Tokyo`."] = timezone,
    ) -> str:
        """Tells the current date, day of the week and time. Use it for anything that depends on today."""
        try:
            local = now().astimezone(ZoneInfo(timezone))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ToolException(f"unknown time zone {timezone[:60]!r}; one is called `Europe/Paris`") from None
        return f"{local:%A} {local:%Y-%m-%d %H:%M:%S} {timezone} (UTC{local:%z}, week {local:%V})"

    return StructuredTool.from_function(
        coroutine=tell_time, name="clock", handle_tool_error=True, metadata={"asked_by": ASKS_FOR_TIME}
    )
