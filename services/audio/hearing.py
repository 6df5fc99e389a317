"""A whole recording heard: cut into pieces, each asked of the router, in a row or several at once.

Pieces that were heard before (by an attempt that was cut off) are not asked again. Constant memory, and on the disk no
more pieces than are being heard.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from core.jobs import TurnOver, turn_is_over
from domain.audio import AudioPiece, CutPlan, Segment
from domain.errors import RouteurError
from domain.runs import Hop
from domain.transcripts import HeardPiece, join, rolling_prompt
from domain.usage import Call
from services.audio.router import AskedToHear, TranscriptionRouter
from services.llm.failover import Plan

Context = Literal["chained", "parallel"]
"""`chained`: each piece is heard knowing the end of the one before. `parallel`: several at once, knowing nothing."""

Cut = Callable[[CutPlan], AsyncGenerator[AudioPiece]]
"""Cuts the recording at hand; the pieces' files are whoever gets them to delete."""

OnPiece = Callable[[HeardPiece], Awaitable[None]]


class PieceFailed(Exception):
    """A piece could not be heard. `where` names it in words, `cause` is why."""

    def __init__(self, piece: AudioPiece, cause: RouteurError) -> None:
        super().__init__(cause.message)
        self.where = f"piece {piece.ordinal + 1} ({_clock(piece.start_s)} to {_clock(piece.end_s)})"
        self.cause = cause


def unbroken(done: Sequence[HeardPiece]) -> list[HeardPiece]:
    """The pieces heard from the beginning on, up to the first that is missing."""
    ordered = sorted(done, key=lambda piece: piece.ordinal)
    return [piece for place, piece in enumerate(ordered) if piece.ordinal == place]


@dataclass(frozen=True, slots=True)
class Listening:
    """How a recording is heard."""

    plan: Plan
    language: str | None = None
    prompt: str | None = None
    context: Context = "chained"
    parallel: int = 1
    times: bool = False


@dataclass(frozen=True, slots=True)
class Ears:
    """Hears pieces for somebody: `on_call` is told of every call made."""

    router: TranscriptionRouter
    listening: Listening
    on_call: Callable[[Call], None]

    async def hear_all(self, cut: Cut, whole: CutPlan, done: Sequence[HeardPiece], on_piece: OnPiece) -> None:
        """Hear what is not in `done`; `on_piece` is awaited for each piece as it is heard. Raises `PieceFailed`.

        As a job, it raises `TurnOver` between two pieces while others wait.
        """
        if self.listening.context == "parallel":
            await self._in_parallel(cut, whole, done, on_piece)
        else:
            await self._in_a_row(cut, whole, done, on_piece)

    async def _in_a_row(self, cut: Cut, whole: CutPlan, done: Sequence[HeardPiece], on_piece: OnPiece) -> None:
        heard = unbroken(done)
        known = {piece.ordinal for piece in heard}
        async with aclosing(cut(_rest(whole, heard))) as pieces:
            async for piece in pieces:
                if piece.ordinal in known:
                    await _remove(piece.path)
                    continue
                said = join(heard, duration_s=piece.start_s).text if heard else ""
                heard.append(await self._hear(piece, rolling_prompt(self.listening.prompt, said)))
                await on_piece(heard[-1])
                if await turn_is_over():
                    raise TurnOver

    async def _in_parallel(self, cut: Cut, whole: CutPlan, done: Sequence[HeardPiece], on_piece: OnPiece) -> None:
        known = {piece.ordinal for piece in done}
        free = asyncio.Semaphore(self.listening.parallel)
        is_over = False

        async def hear(piece: AudioPiece) -> None:
            try:
                await on_piece(await self._hear(piece, rolling_prompt(self.listening.prompt, "")))
            finally:
                free.release()

        try:
            async with asyncio.TaskGroup() as hearing, aclosing(cut(_rest(whole, unbroken(done)))) as pieces:
                await free.acquire()
                async for piece in pieces:
                    if piece.ordinal in known:
                        await _remove(piece.path)
                        continue
                    hearing.create_task(hear(piece), name=f"piece {piece.ordinal}")
                    # The next piece is cut when there is a place to hear it.
                    await free.acquire()
                    if is_over := await turn_is_over():
                        break  # What is being heard is paid for: it is waited for, and stored.
        except BaseExceptionGroup as group:
            raise _first(group) from group
        if is_over:
            raise TurnOver

    async def _hear(self, piece: AudioPiece, prompt: str | None) -> HeardPiece:
        """The piece as text, its times counted from the recording's beginning. Its file goes, whatever comes."""
        try:
            if piece.silent:
                # Models make up words where there are none, and charge for it.
                return _heard(piece, "", self.listening.language, None, ())
            hops: list[Hop] = []
            asked = AskedToHear(
                piece.path,
                piece.duration_s,
                self.listening.language,
                prompt,
                self.listening.times,
                on_call=self.on_call,
                on_hop=hops.append,
            )
            try:
                heard = await self.router.hear(self.listening.plan, asked)
            except RouteurError as error:
                raise PieceFailed(piece, error) from error
            shifted = None if heard.segments is None else tuple(_shifted(each, piece) for each in heard.segments)
            language = heard.language or self.listening.language
            return _heard(piece, heard.text, language, asked.answering_model, shifted, tuple(hops))
        finally:
            await _remove(piece.path)


def _heard(
    piece: AudioPiece,
    text: str,
    language: str | None,
    model: str | None,
    segments: tuple[Segment, ...] | None,
    hops: tuple[Hop, ...] = (),
) -> HeardPiece:
    return HeardPiece(
        ordinal=piece.ordinal,
        start_s=piece.start_s,
        end_s=piece.end_s,
        overlap_s=piece.overlap_s,
        text=" ".join(text.split()),
        language=language,
        model=model,
        segments=segments,
        hops=hops,
    )


def _shifted(segment: Segment, piece: AudioPiece) -> Segment:
    """In the time of the whole, and inside its piece: models end a little after the end."""
    start_s = min(piece.start_s + segment.start_s, piece.end_s)
    end_s = max(start_s, min(piece.start_s + segment.end_s, piece.end_s))
    return Segment(start_s, end_s, " ".join(segment.text.split()))


def _rest(whole: CutPlan, heard: Sequence[HeardPiece]) -> CutPlan:
    """What is left to cut: from the last piece heard, for only its own cut tells how the next one begins."""
    if not heard:
        return whole
    last = heard[-1]
    return replace(whole, start_s=last.start_s, overlap_s=last.overlap_s, first_ordinal=last.ordinal)


def _clock(seconds: float) -> str:
    minutes, left = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}"


async def _remove(path: Path) -> None:
    await asyncio.to_thread(path.unlink, missing_ok=True)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of what went wrong together: the others are its like, or were ended because of it."""
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    return group
