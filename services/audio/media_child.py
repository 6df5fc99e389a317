"""The process that reads one recording: tells how long it is, or cuts it, a piece each time it is asked for one.

Started by `media.py`, bounded and without secrets (`core.child_bounds`). It says nothing of what is in the recording.
"""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import av

from core.child_bounds import OUT_OF_MEMORY
from domain.audio import CutPlan
from services.audio.media_contract import UnreadableAudio
from services.audio.media_wire import encode, encode_piece, encode_probe

OWN_FOLDER = Path(__file__).parent
NO_SUCH_PLACE = frozenset({errno.EINVAL, errno.EOVERFLOW})
"""A place that no file has, which only a stranger's header names."""


def main() -> None:
    """`probe <path>`, or `cut <path> <directory> <the plan's six numbers>`."""
    os.umask(0o077)
    what, path, *rest = sys.argv[1:]
    try:
        for line in _cut(Path(path), *rest) if what == "cut" else _probe(Path(path)):
            _say(line)
    except BrokenPipeError:
        os._exit(1)  # The server is gone.
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except UnreadableAudio as error:
        _say(encode(unreadable=error.reason, not_audio=error.not_audio))
    except Exception as error:  # noqa: BLE001 — a broken file raises anything in the libraries that read it.
        if isinstance(error, OSError) and not isinstance(error, av.FFmpegError) and error.errno not in NO_SUCH_PLACE:
            _say(encode(errno=error.errno or errno.EIO))
        else:
            _say(encode(broke=_where(error)))
    os._exit(0)


def _probe(path: Path) -> Iterator[bytes]:
    from services.audio.media_probing import probe

    yield encode_probe(probe(path))


def _cut(path: Path, directory: str, *numbers: str) -> Iterator[bytes]:
    from services.audio.media_decoding import SampleSource, decoded, open_recording
    from services.audio.media_pieces import Cutter

    duration_s, target_s, max_s, start_s, overlap_s = map(float, numbers[:5])
    plan = CutPlan(duration_s, target_s, max_s, start_s, overlap_s, int(numbers[5]))
    cutter = None
    with open_recording(path) as recording:
        for name in sys.stdin:
            cutter = cutter or Cutter(SampleSource(decoded(recording)), plan)
            piece = cutter.next_piece(Path(directory, name.strip()))
            yield encode_piece(piece) if piece else encode(end=True)


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _where(error: Exception) -> str:
    """The error's kind and the last line of ours on its way: no content of the recording."""
    ours = [at for at in traceback.extract_tb(error.__traceback__) if Path(at.filename).parent == OWN_FOLDER]
    return f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"
