"""Progress is a bar that redraws in a terminal, and one line every ten percent in a log."""

import io

from services.local_models.progress import TerminalProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_every_ten_percent_whatever_the_number_of_blocks() -> None:
    log = io.StringIO()
    progress = TerminalProgress(log)
    for done in range(0, 100_000_001, 100_000):
        progress(done, 100_000_000, "part 1" if done < 50_000_000 else "part 2")
    lines = log.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("  0 %")
    assert lines[-1].startswith("100 %  100.0/100.0 MB")


def test_a_terminal_gets_one_line_redrawn_and_ended() -> None:
    terminal = Terminal()
    progress = TerminalProgress(terminal)
    progress(0, 100, "https://example.org/file")
    progress(100, 100, "https://example.org/file")
    progress.close()
    drawn = terminal.getvalue()
    assert drawn.count("\n") == 1
    assert drawn.endswith("\n")
    assert "[########################] 100 %" in drawn


def test_a_server_in_a_terminal_gets_lines_all_the_same() -> None:
    terminal = Terminal()
    progress = TerminalProgress(terminal, live=False)
    for done in range(101):
        progress(done, 100, "https://example.org/file")
    assert terminal.getvalue().count("\n") == 11
    assert "\r" not in terminal.getvalue()


def test_an_unknown_size_is_not_a_percentage_of_nothing() -> None:
    log = io.StringIO()
    TerminalProgress(log)(0, None, "another process is fetching it")
    assert "another process is fetching it" in log.getvalue()
