"""The pieces of a recording as one transcript: no word lost and none said twice where they meet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from domain.audio import Segment
from domain.runs import Hop
from domain.seams import Seam, between, find_seam, glue_of, tokens_of

PROMPT_WORDS = 200
PROMPT_CHARS = 1_600
"""As long as two hundred words are; it bounds what is written without spaces."""


@dataclass(frozen=True, slots=True)
class HeardPiece:
    """What was heard in one piece. Times count from the recording's beginning; `model` is `None` for silence."""

    ordinal: int
    start_s: float
    end_s: float
    overlap_s: float
    text: str
    language: str | None
    model: str | None
    segments: tuple[Segment, ...] | None
    hops: tuple[Hop, ...] = ()

    @property
    def new_s(self) -> float:
        """How much of it no piece before it held."""
        return self.end_s - self.start_s - self.overlap_s


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole recording. `language` and `model` are those of most of it; `segments` are `None` without any times."""

    text: str
    language: str | None
    duration_s: float
    model: str | None
    segments: tuple[Segment, ...] | None
    stretches: tuple[Segment, ...] = ()
    """Each piece as one segment: the times that are known whoever heard it."""
    hops: tuple[Hop, ...] = ()


def join(pieces: Sequence[HeardPiece], *, duration_s: float) -> Transcript:
    """The transcript of pieces in their order."""
    seamless = [piece for piece in _without_repeats(pieces) if piece.text]
    text = ""
    for piece in seamless:
        text = f"{text}{between(text, piece.text)}{piece.text}" if text else piece.text
    return Transcript(
        text=text,
        language=_most(seamless, lambda piece: piece.language),
        duration_s=duration_s,
        model=_most(seamless, lambda piece: piece.model),
        segments=_segments(seamless),
        stretches=tuple(_stretch(piece) for piece in seamless),
        hops=tuple(dict.fromkeys(hop for piece in pieces for hop in piece.hops)),
    )


def rolling_prompt(given: str | None, said: str) -> str | None:
    """What a transcriber is told before it hears the next piece: the caller's words, and the end of what was said."""
    own = (given or "")[:PROMPT_CHARS].split()[:PROMPT_WORDS]
    left = PROMPT_WORDS - len(own)
    tail = said[-PROMPT_CHARS:].split()[-left:] if left else []
    return " ".join((*own, *tail)) or None


def _without_repeats(pieces: Sequence[HeardPiece]) -> list[HeardPiece]:
    """The same pieces; of words that two of them hold, one lets go."""
    joined: list[HeardPiece] = []
    for piece in pieces:
        seam = Seam()
        if joined and _meet(joined[-1], piece):
            seam = find_seam(joined[-1].text, piece.text, piece.overlap_s)
            joined[-1] = _shorter(joined[-1], last=seam.last)
        joined.append(_shorter(piece, first=seam.first))
    return joined


def _meet(before: HeardPiece, piece: HeardPiece) -> bool:
    """Whether both hold the same seconds, and heard something."""
    return bool(piece.overlap_s and piece.ordinal == before.ordinal + 1 and piece.text and before.text)


def _shorter(piece: HeardPiece, *, first: int = 0, last: int = 0) -> HeardPiece:
    """The piece without its first or last tokens, in its segments too."""
    if not first and not last:
        return piece
    glue = glue_of(piece.text)
    tokens = tokens_of(piece.text, glue)
    segments = piece.segments
    if segments is not None:
        segments = _drop_first(segments, first, glue)
        segments = tuple(reversed(_drop_first(tuple(reversed(segments)), last, glue, from_end=True)))
    return replace(piece, text=glue.join(tokens[first : len(tokens) - last]).strip(), segments=segments)


def _drop_first(segments: tuple[Segment, ...], count: int, glue: str, *, from_end: bool = False) -> tuple[Segment, ...]:
    left = count
    kept: list[Segment] = []
    for segment in segments:
        tokens = tokens_of(segment.text, glue)
        if left >= len(tokens):
            left -= len(tokens)
            continue
        rest = tokens[: len(tokens) - left] if from_end else tokens[left:]
        kept.append(replace(segment, text=glue.join(rest).strip()) if left else segment)
        left = 0
    return tuple(kept)


def _segments(pieces: Sequence[HeardPiece]) -> tuple[Segment, ...] | None:
    """In the order they were said. A piece without times, among others with them, is one segment."""
    if not any(piece.segments for piece in pieces):
        return None if any(piece.text for piece in pieces) else ()
    found: list[Segment] = []
    for piece in pieces:
        if piece.segments is not None:
            found += piece.segments
        elif piece.text:
            found.append(_stretch(piece))
    return tuple(found)


def _stretch(piece: HeardPiece) -> Segment:
    """All of a piece as one segment."""
    return Segment(piece.start_s + piece.overlap_s, piece.end_s, piece.text)


def _most(pieces: Sequence[HeardPiece], what: Callable[[HeardPiece], str | None]) -> str | None:
    """What holds for most of the recording's seconds."""
    seconds: dict[str, float] = {}
    for piece in pieces:
        if piece.text and (value := what(piece)) is not None:
            seconds[value] = seconds.get(value, 0.0) + piece.new_s
    return max(seconds, key=seconds.__getitem__) if seconds else None
