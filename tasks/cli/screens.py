"""A run on the screen: a table that redraws on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.cli.console import style_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import rich.live
    import rich.table

    from tasks.cli.console import Console
    from tasks.cli.follow import RunView, Screen, TaskView

MAX_PLAIN = 160
QUIET = frozenset({"waiting", "scheduled", "queued", "removed"})
_STEP = re.compile(r"step_\d+\.")


class PlainScreen:
    """A line when a task starts, now and then while it runs, and when it ends."""

    def __init__(self, console: Console) -> None:
        """Speak through `console`."""
        self._console = console
        self._known: dict[str, str] = {}

    def show(self, view: RunView) -> None:
        """Print what is new."""
        for task in view.tasks:
            if task.state in QUIET or is_unused(task):
                continue
            if self._known.get(task.task_id) != task.state:
                self._known[task.task_id] = task.state
                self._console.say_news(task.task_id, plain_line(task), task.sentence)
            elif task.state in {"running", "deferred"}:
                self._console.say_now_and_then(task.task_id, plain_line(task), task.sentence)


class LiveScreen:
    """One row a task, redrawn in place."""

    def __init__(self, title: str, live: rich.live.Live) -> None:
        """Draw into `live`."""
        self._title = title
        self._live = live

    def show(self, view: RunView) -> None:
        """Redraw."""
        self._live.update(drawn(self._title, view))


@contextmanager
def screen_for(console: Console, title: str) -> Iterator[Screen]:
    """Open the screen that suits where the command speaks."""
    if not console.interactive:
        console.say(title)
        yield PlainScreen(console)
        return
    import rich.console  # noqa: PLC0415  only for terminals
    import rich.live  # noqa: PLC0415

    with rich.live.Live(
        console=rich.console.Console(file=console.out), refresh_per_second=4, transient=True
    ) as live:
        yield LiveScreen(title, live)


def plain_line(task: TaskView) -> str:
    """Return one line about a task."""
    seconds = "" if task.seconds is None else f" {task.seconds:.0f} s"
    said = " ".join(task.sentence.split())
    line = f"  {task.task_id:<28} {task.state}{seconds}{': ' + said if said else ''}"
    return line if len(line) <= MAX_PLAIN or task.state == "failed" else f"{line[:MAX_PLAIN]}..."


def drawn(title: str, view: RunView) -> rich.table.Table:
    """Return the table of a run for a terminal."""
    import rich.table  # noqa: PLC0415  only for terminals
    import rich.text  # noqa: PLC0415

    table = rich.table.Table(title=title, title_justify="left", title_style="bold", box=None)
    for column in ("task", "state", "seconds"):
        table.add_column(column, no_wrap=True)
    table.add_column("what it does", overflow="ellipsis", no_wrap=True, ratio=1)
    for task in view.tasks:
        if is_unused(task):
            continue
        seconds = "" if task.seconds is None else f"{task.seconds:.0f}"
        cells = (task.task_id, task.state, seconds, " ".join(task.sentence.split()))
        table.add_row(*cells, style=style_of(task.state))
    return table


def is_unused(task: TaskView) -> bool:
    """Return whether a task is a traffic step that nothing has asked for (yet)."""
    if task.state == "skipped":
        return True
    return bool(_STEP.match(task.task_id)) and task.state in QUIET
