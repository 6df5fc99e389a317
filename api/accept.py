"""Which media type an `Accept` header prefers, of those that can be sent (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence


def best_media_type(accept: str, offered: Sequence[str]) -> str | None:
    """The offered type with the highest weight, the first of equals; `None` when none is acceptable."""
    ranges = [_read(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    weights = {media_type: _weight(media_type, ranges) for media_type in offered}
    best = max(offered, key=lambda media_type: weights[media_type])
    return best if weights[best] > 0 else None


def _read(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    weight = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            weight = _number(value)
    return media_range, weight


def _number(value: str) -> float:
    """A weight that cannot be read counts as a full one."""
    try:
        number = float(value)
    except ValueError:
        return 1.0
    return min(max(number, 0.0), 1.0) if number == number else 1.0  # noqa: PLR0124 - NaN is unequal to itself


def _weight(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The weight of the most specific range that the type is in."""
    kind = media_type.partition("/")[0]
    for fitting in (media_type, f"{kind}/*", "*/*"):
        if weights := [weight for media_range, weight in ranges if media_range == fitting]:
            return max(weights)
    return 0.0
