"""Recordings and what was heard in them: pieces, timestamped segments, transcripts."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file turned out to hold. `duration_s` is counted from its packets, not believed from its header."""

    duration_s: float
    container: str
    codec: str


@dataclass(frozen=True, slots=True)
class CutPlan:
    """How a recording is cut. From the same plan and bytes come the same pieces, also when taken up in the middle.

    `target_s` is where a cut is looked for, `max_s` the longest piece that may be made. A recording that was begun goes
    on at `start_s` with the piece `first_ordinal`, whose first `overlap_s` seconds the piece before held as well.
    """

    duration_s: float
    target_s: float
    max_s: float
    start_s: float = 0.0
    overlap_s: float = 0.0
    first_ordinal: int = 0


@dataclass(frozen=True, slots=True)
class AudioPiece:
    """A stretch of a recording as an MP3 file of its own. Times in seconds from the recording's beginning.

    Its first `overlap_s` seconds are the end of the piece before it: no silence was found to cut in. `silent` says that
    nothing in it is louder than a quiet room.
    """

    ordinal: int
    path: Path
    start_s: float
    end_s: float
    overlap_s: float
    silent: bool

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Segment:
    """A few words and when they were said, in seconds."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What a transcriber made of one piece. `segments` are `None` where the model gives no times; `language` is an
    ISO 639-1 code, `None` when neither the model nor the caller said it."""

    text: str
    language: str | None
    segments: tuple[Segment, ...] | None


SUPPORTED_FORMATS = ("mp3", "mp4", "mpeg", "mpga", "m4a", "wav", "webm")
"""What callers are promised. Other recordings are taken too, where they can be read."""

LANGUAGES = {
    "af": "Afrikaans",
    "ar": "Arabic",
    "az": "Azerbaijani",
    "be": "Belarusian",
    "bg": "Bulgarian",
    "bs": "Bosnian",
    "ca": "Catalan",
    "cs": "Czech",
    "cy": "Welsh",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "gl": "Galician",
    "he": "Hebrew",
    "hi": "Hindi",
    "hr": "Croatian",
    "hu": "Hungarian",
    "hy": "Armenian",
    "id": "Indonesian",
    "is": "Icelandic",
    "it": "Italian",
    "ja": "Japanese",
    "kk": "Kazakh",
    "kn": "Kannada",
    "ko": "Korean",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "mi": "Maori",
    "mk": "Macedonian",
    "mr": "Marathi",
    "ms": "Malay",
    "ne": "Nepali",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sr": "Serbian",
    "sv": "Swedish",
    "sw": "Swahili",
    "ta": "Tamil",
    "th": "Thai",
    "tl": "Tagalog",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
"""The languages that Whisper hears well (https://developers.openai.com/api/docs/guides/speech-to-text, 2026-11-20)."""
