"""Many calls as few: what they consumed together, told apart by what tells their accounts apart. Kept as JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

from domain.usage import Call, LocalWork, TokenUsage


def add_calls(kept: Iterable[Mapping[str, Any]], calls: Iterable[Call]) -> list[dict[str, Any]]:
    """The totals with these calls added; one entry a model, provider, status and error."""
    totals: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in (*map(_as_written_now, kept), *map(_entry, calls)):
        key = tuple(entry[name] for name in ("model", "provider", "status", "error_code"))
        total = totals.setdefault(key, _nothing(entry))
        for name in ("input_tokens", "output_tokens", "latency_s", "cpu_s", "ram_gb_s"):
            total[name] = _sum(total[name], entry[name])
        if (heard := entry["audio_s"]) is not None:
            total["audio_s"] = (total["audio_s"] or 0.0) + heard
        total["estimated"] = total["estimated"] or entry["estimated"]
    return list(totals.values())


def as_calls(kept: Iterable[Mapping[str, Any]]) -> list[Call]:
    """The totals as the accountant reads them: prices and footprints are proportional to what was consumed."""
    return [
        Call(
            model=entry["model"],
            provider=entry["provider"],
            usage=TokenUsage(entry["input_tokens"], entry["output_tokens"], audio_s=entry["audio_s"]),
            estimated=entry["estimated"],
            status=entry["status"],
            latency_s=entry["latency_s"],
            local_work=None if entry["cpu_s"] is None else LocalWork(entry["cpu_s"], entry["ram_gb_s"]),
            error_code=entry["error_code"],
        )
        for entry in map(_as_written_now, kept)
    ]


def _entry(call: Call) -> dict[str, Any]:
    work = call.local_work
    return {
        "model": call.model,
        "provider": call.provider,
        "status": call.status,
        "error_code": call.error_code,
        "input_tokens": call.usage.input_tokens,
        "output_tokens": call.usage.output_tokens,
        "audio_s": call.usage.audio_s,
        "estimated": call.estimated,
        "latency_s": call.latency_s,
        "cpu_s": None if work is None else work.cpu_s,
        "ram_gb_s": None if work is None else work.ram_gb_s,
    }


def _nothing(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A total to begin with. What ran elsewhere has no work here, which is not the same as none."""
    here = None if entry["cpu_s"] is None else 0.0
    nothing = {"input_tokens": 0, "output_tokens": 0, "audio_s": None, "latency_s": 0.0, "estimated": False}
    return {**entry, **nothing, "cpu_s": here, "ram_gb_s": here}


def _as_written_now(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Before there was audio, only embeddings were kept, which write nothing."""
    return {"output_tokens": 0, "audio_s": None, **entry}


def _sum(one: float | None, other: float | None) -> float | None:
    """Unknown as soon as a part is."""
    return None if one is None or other is None else one + other
