"""How far a download has come, in the terminal."""

import sys
import time
from typing import TextIO

_BAR_CELLS = 24
_REDRAW_S = 0.1
_MB = 1_000_000


class TerminalProgress:
    """Called with bytes done, bytes in all and what is being fetched; draws a bar, or a line every 10 % in a log.

    `live` says which; when absent, a terminal gets the bar.
    """

    def __init__(self, stream: TextIO | None = None, *, live: bool | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() if live is None else live
        self._began_s: float | None = None
        self._began_bytes = 0
        self._last_bytes = 0
        self._drawn_s = 0.0
        self._next_line_percent = 0
        self._open_line = False

    def __call__(self, done: int, total: int | None, label: str) -> None:
        now = time.monotonic()
        if self._began_s is None or done < self._last_bytes:  # The first source, or one that starts over.
            self.close()
            self._began_s, self._began_bytes, self._drawn_s, self._next_line_percent = now, done, 0.0, 0
        self._last_bytes = done
        percent = 100 * done // total if total else 0
        complete = total is not None and done >= total
        if self._live and (complete or now - self._drawn_s >= _REDRAW_S):
            self._drawn_s, self._open_line = now, True
            self._stream.write("\r" + self._line(done, total, percent, label) + "\x1b[K")
            self._stream.flush()
        elif not self._live and percent >= self._next_line_percent:
            self._next_line_percent = percent - percent % 10 + 10
            self._stream.write(self._line(done, total, percent, label) + "\n")

    def close(self) -> None:
        """End the line being drawn, so that what is printed next starts on its own."""
        if self._open_line:
            self._stream.write("\n")
            self._open_line = False

    def _line(self, done: int, total: int | None, percent: int, label: str) -> str:
        elapsed_s = time.monotonic() - (self._began_s or 0.0)
        speed = f", {(done - self._began_bytes) / _MB / elapsed_s:.1f} MB/s" if elapsed_s > 0.01 else ""
        size = f"{done / _MB:.1f}/{total / _MB:.1f} MB" if total else f"{done / _MB:.1f} MB"
        bar = ""
        if self._live:
            filled = _BAR_CELLS * percent // 100
            bar = f"[{'#' * filled}{'.' * (_BAR_CELLS - filled)}] "
        return f"{bar}{percent:3d} %  {size}{speed}  {label}"
