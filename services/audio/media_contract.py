"""What reading a recording may take, how it is refused, and which formats are promised."""

from dataclasses import dataclass

ACCEPTED_FORMATS = "mp3, mp4, mpeg, mpga, m4a, wav or webm (ogg, opus, flac and aac are read as well)"


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What one recording may take. `timeout_s` is for a probe, or each piece; the consumer's time does not count."""

    timeout_s: float = 300.0
    memory_bytes: int = 300_000_000


class UnreadableAudio(Exception):
    """The recording cannot be read; `reason` is safe to show: what is wrong, and what would work.

    `not_audio` says that the file's kind is none that is taken, whatever its name. Otherwise it is one, but empty, cut
    short or damaged.
    """

    def __init__(self, reason: str, *, not_audio: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.not_audio = not_audio


def needs_more_memory(limit_bytes: int) -> str:
    return (
        f"reading this recording needs more memory than the {limit_bytes / 1e6:,.0f} MB allowed: "
        "save it anew as mp3, or as wav with one channel"
    )
