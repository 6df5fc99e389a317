"""The pieces of a recording as one transcript: no word lost and none said twice where they meet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from domain.audio import Segment
from domain.runs import Hop

SEAM_WORDS_A_SECOND = 5
"""Nobody speaks faster for long: how many words an overlap can hold at most."""
SEAM_MARGIN_WORDS = 4
PROMPT_WORDS = 200
WITHOUT_SPACES = frozenset({"zh", "ja", "th"})
"""Languages that put nothing between words: their pieces are joined with nothing."""


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
    hops: tuple[Hop, ...] = ()


def join(pieces: Sequence[HeardPiece], *, duration_s: float) -> Transcript:
    """The transcript of pieces in their order."""
    seamless = _without_repeats(pieces)
    language = _most(seamless, lambda piece: piece.language)
    between = "" if language in WITHOUT_SPACES else " "
    return Transcript(
        text=between.join(piece.text for piece in seamless if piece.text),
        language=language,
        duration_s=duration_s,
        model=_most(seamless, lambda piece: piece.model),
        segments=_segments(seamless),
        hops=tuple(dict.fromkeys(hop for piece in pieces for hop in piece.hops)),
    )


def rolling_prompt(given: str | None, said: str) -> str | None:
    """What a transcriber is told before it hears the next piece: the caller's words, and the end of what was said."""
    own = (given or "").split()[:PROMPT_WORDS]
    left = PROMPT_WORDS - len(own)
    tail = said.split()[-left:] if left else []
    return " ".join((*own, *tail)) or None


def _without_repeats(pieces: Sequence[HeardPiece]) -> list[HeardPiece]:
    """The same pieces; of words that two of them hold, one lets go."""
    joined: list[HeardPiece] = []
    for piece in pieces:
        after = 0
        if joined and piece.overlap_s and piece.text and joined[-1].text:
            most = int(piece.overlap_s * SEAM_WORDS_A_SECOND) + SEAM_MARGIN_WORDS
            before, after = _seam(joined[-1].text.split(), piece.text.split(), most)
            joined[-1] = _shorter(joined[-1], last=before)
        joined.append(_shorter(piece, first=after))
    return joined


def _seam(before: Sequence[str], after: Sequence[str], most: int) -> tuple[int, int]:
    """How many words the first lets go at its end, and the second at its beginning.

    Both may have misheard the word that the cut went through: what they agree on is kept once, what is beyond it on
    either side goes. Where they agree on nothing nothing is dropped: a word said twice is better than a word lost.
    """
    tail, head = [_bare(word) for word in before[-most:]], [_bare(word) for word in after[:most]]
    match = SequenceMatcher(a=tail, b=head, autojunk=False).find_longest_match()
    agreed = "".join(tail[match.a : match.a + match.size])
    if match.size < 2 and len(agreed) < 5:
        return 0, 0
    return len(tail) - match.a - match.size, match.b + match.size


def _bare(word: str) -> str:
    return "".join(char for char in word.casefold() if char.isalnum())


def _shorter(piece: HeardPiece, *, first: int = 0, last: int = 0) -> HeardPiece:
    """The piece without its first or last words, in its segments too."""
    words = piece.text.split()
    text = " ".join(words[first : len(words) - last]) if first or last else piece.text
    segments = piece.segments
    if segments is not None:
        segments = _drop_first(segments, first)
        segments = tuple(reversed(_drop_first(tuple(reversed(segments)), last, from_end=True)))
    return replace(piece, text=text, segments=segments)


def _drop_first(segments: tuple[Segment, ...], count: int, *, from_end: bool = False) -> tuple[Segment, ...]:
    left = count
    kept: list[Segment] = []
    for segment in segments:
        words = segment.text.split()
        if left >= len(words):
            left -= len(words)
            continue
        rest = words[: len(words) - left] if from_end else words[left:]
        kept.append(replace(segment, text=" ".join(rest)) if left else segment)
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
            found.append(Segment(piece.start_s + piece.overlap_s, piece.end_s, piece.text))
    return tuple(found)


def _most(pieces: Sequence[HeardPiece], what: Callable[[HeardPiece], str | None]) -> str | None:
    """What holds for most of the recording's seconds."""
    seconds: dict[str, float] = {}
    for piece in pieces:
        if piece.text and (value := what(piece)) is not None:
            seconds[value] = seconds.get(value, 0.0) + piece.new_s
    return max(seconds, key=seconds.__getitem__) if seconds else None
