"""What a person sees: colours and a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from tasks.contracts.log_lines import Form, Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.contracts.log_lines import LineLog

PLAIN_SECONDS = 4.0  # between two lines about the same thing on a plain stream
UNCHANGED_SECONDS = 20.0  # the same, where there is nothing new to say


@dataclass(kw_only=True)
class Console:
    """Where the command speaks: answers on `out`, complaints on `err`."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    lines: LineLog | None = None  # of commands that run long: JSON where HEADRACE_LOG asks for it
    _last: dict[str, tuple[float, str]] = field(default_factory=dict)

    @property
    def interactive(self) -> bool:
        """Return whether a person watches a terminal that can redraw."""
        if self._for_programs is not None:
            return False
        return self.out.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    @property
    def _for_programs(self) -> LineLog | None:
        return self.lines if self.lines is not None and self.lines.form is Form.JSON else None

    def say(self, line: str = "") -> None:
        """Print a line."""
        programs = self._for_programs
        if programs is None:
            print(line, file=self.out, flush=True)
        elif line:
            print(programs.as_json(Level.INFO, line.strip()), file=self.out, flush=True)

    def note(self, level: Level, line: str, **about: str) -> None:
        """Add a line to the log file of the commands that run long; print nothing."""
        if self.lines is not None:
            self.lines.about(**about)
            self.lines.note(level, line)

    def say_now_and_then(self, topic: str, line: str, news: str = "") -> None:
        """Print a line unless one on this topic was printed a moment ago; without news, later."""
        said_at, said = self._last.get(topic, (-UNCHANGED_SECONDS, ""))
        pause = UNCHANGED_SECONDS if news == said else PLAIN_SECONDS
        if time.monotonic() - said_at >= pause:
            self.say_news(topic, line, news)

    def say_news(self, topic: str, line: str, news: str = "") -> None:
        """Print a line, and remember when, for `say_now_and_then`."""
        self._last[topic] = (time.monotonic(), news)
        self.say(line)

    def complain(self, line: str) -> None:
        """Print an error."""
        programs = self._for_programs
        text = f"headrace: {line}" if programs is None else programs.as_json(Level.ERROR, line)
        print(text, file=self.err, flush=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table: drawn on a terminal, aligned columns elsewhere, a line a row for programs."""
        if self._for_programs is not None:
            for row in rows:
                cells = (f"{name}: {cell}" for name, cell in zip(columns, row, strict=True) if cell)
                self.say(f"{title}: {', '.join(cells)}")
        elif self.interactive:
            self._drawn_table(title, columns, rows)
        else:
            self._plain_table(title, columns, rows)

    def _drawn_table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        import rich.console  # noqa: PLC0415  `headrace --help` does not wait for it
        import rich.table  # noqa: PLC0415
        import rich.text  # noqa: PLC0415

        drawn = rich.table.Table(title=title, title_justify="left", title_style="bold")
        for column in columns:
            drawn.add_column(column, overflow="fold")
        for row in rows:
            drawn.add_row(*(rich.text.Text(cell, style=style_of(cell)) for cell in row))
        rich.console.Console(file=self.out).print(drawn)

    def _plain_table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
        self.say(title)
        for row in (columns, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.say("  " + "  ".join(cells).rstrip())


_STYLES = {
    "passed": "green",
    "ready": "green",
    "success": "green",
    "refused": "bold red",
    "failed": "bold red",
    "backing off": "bold red",
    "running": "cyan",
    "starting": "cyan",
    "skipped": "dim",
    "not needed": "dim",
}


def style_of(cell: str) -> str:
    """Return how a word of status is coloured."""
    return next((style for word, style in _STYLES.items() if cell.startswith(word)), "")
