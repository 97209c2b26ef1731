"""Kill a command at random moments, run it again, compare: knows commands and folders, no code of ours.

What it knows of a store is what its readers may rely on: a folder with a `manifest.json` holds, below
`payload-<first 16 digits of content>`, exactly the files that the manifest lists.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 600
LOOK_SECONDS = 0.02  # between two looks at a mark


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is started, with which environment, in which folder."""

    words: Sequence[str]
    environment: Mapping[str, str]
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended: a negative code is a signal."""

    code: int
    seconds: float
    output: str
    marked: tuple[float, ...] = ()  # seconds after the start at which its mark changed

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


Mark = Callable[[], object | None]


@dataclass(kw_only=True)
class _Marked:
    """When a mark changed, as far as one looked."""

    mark: Mark | None
    at: list[float] = field(default_factory=list)  # seconds after the start
    last: object | None = None

    def look(self, now: float) -> None:
        found = None if self.mark is None else self.mark()
        if found is not None and found != self.last:
            self.last = found
            self.at.append(now)

    def end(self, kill_after: float | None) -> float:
        """Return the second at which the command is killed, as far as one knows."""
        begun = 0.0 if self.mark is None else self.at[0] if self.at else math.inf
        return min(PATIENCE_SECONDS, begun + (math.inf if kill_after is None else kill_after))


def run(command: Command, kill_after: float | None = None, mark: Mark | None = None) -> Ended:
    """Run a command in its own process group, to its end or until the group is killed.

    `kill_after` counts from the start or, with a `mark`, from the first look at which it is not None.
    """
    started, marked, output = time.monotonic(), _Marked(mark=mark), None
    process = subprocess.Popen(
        list(command.words),
        env=dict(command.environment),
        cwd=command.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    while output is None:
        now = time.monotonic() - started
        marked.look(now)
        left = marked.end(kill_after) - now
        if left <= 0:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            break
        with suppress(subprocess.TimeoutExpired):
            wait = left if mark is None else min(left, LOOK_SECONDS)
            output, _ = process.communicate(timeout=wait)
    seconds = time.monotonic() - started
    return Ended(code=process.returncode, seconds=seconds, output=output, marked=tuple(marked.at))


# The store, as any reader may look at it.


def sealed(store: Path) -> Iterator[Path]:
    """Yield the folders with a manifest."""
    for manifest in sorted(store.rglob("manifest.json")):
        if "payload-" not in str(manifest.parent):
            yield manifest.parent


def problems(store: Path) -> list[str]:
    """Return what is half-written or corrupt among the artifacts that can be seen."""
    return [problem for folder in sealed(store) for problem in _problems_of(folder)]


def _problems_of(folder: Path) -> list[str]:
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        listed = {entry["path"]: entry for entry in manifest["files"]}
        content, key = manifest["content"], manifest["key"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{folder.name}: manifest.json cannot be read: {error!r}"]
    found = [] if key == folder.name else [f"{folder.name}: lies under another key than {key}"]
    payload = folder / f"payload-{content[:16]}"
    present = {p.relative_to(payload).as_posix(): p for p in payload.rglob("*") if p.is_file()}
    found += [
        f"{folder.name}: {name} is missing" for name in sorted(listed.keys() - present.keys())
    ]
    found += [
        f"{folder.name}: {name} is too much" for name in sorted(present.keys() - listed.keys())
    ]
    lines = []
    for name in sorted(listed.keys() & present.keys()):
        data = present[name].read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        lines.append(f"{name}\0{len(data)}\0{digest}\n")
        if (len(data), digest) != (listed[name]["size"], listed[name]["sha256"]):
            found.append(f"{folder.name}: {name} differs from its manifest")
    if hashlib.sha256("".join(lines).encode()).hexdigest() != content:
        found.append(f"{folder.name}: content differs from its manifest")
    return found


def digests(store: Path) -> dict[str, str]:
    """Return kind/key -> content digest of every artifact that can be seen."""
    return {
        f"{folder.parent.name}/{folder.name}": json.loads((folder / "manifest.json").read_bytes())[
            "content"
        ]
        for folder in sealed(store)
    }


# A trial: kill, look, run again, compare.


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What of a killed run's work was done again."""

    steps: int = 0
    trouble: str = ""  # a sentence where that is too much


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A command to be killed, and the world around it.

    `restore` puts the world where it was before the command ever ran; `result` returns what the
    command left, so that two worlds can be compared; `resumed` says where the last run went on if
    it did not begin anew. With a `mark` (None at first, then changing) kills fall between its first
    and its last change only.
    """

    name: str
    command: Command
    store: Path
    restore: Callable[[], None]
    result: Callable[[], Any]
    resumed: Callable[[Ended], str | None] = lambda _ended: None
    lost: Callable[[Ended, Ended], Lost] = lambda _killed, _again: Lost()
    mark: Mark | None = None


@dataclass(kw_only=True)
class Tally:
    """What became of the kills of one subject."""

    name: str
    undisturbed_seconds: float
    kills: int = 0
    ended_before: int = 0
    resumed: list[str] = field(default_factory=list)  # from where, in words
    most_lost: int = 0  # steps of one kill
    equal: int = 0
    trouble: list[str] = field(default_factory=list)

    def row(self) -> tuple[str, ...]:
        return (
            self.name,
            f"{self.undisturbed_seconds:.1f}",
            str(self.kills),
            str(len(self.resumed)),
            str(self.most_lost),
            f"{self.equal} of {self.kills}",
        )


def kill_often(subject: Subject, kills: int, seed: int) -> Tally:
    """Run undisturbed in a world of its own, then kill `kills` times at uniform moments of that time.

    With a mark, of the time between its first and its last change.
    """
    subject.restore()
    whole = run(subject.command, mark=subject.mark)
    if whole.code != 0:
        message = f"{subject.name}: undisturbed it ended with {whole.code}: {whole.output[-2000:]}"
        raise AssertionError(message)
    expected = subject.result()
    span = whole.seconds
    if subject.mark is not None:
        assert len(whole.marked) > 1, f"{subject.name}: its mark changed {len(whole.marked)} times"
        span = whole.marked[-1] - whole.marked[0]
    tally = Tally(name=subject.name, undisturbed_seconds=whole.seconds)
    tally.trouble += problems(subject.store)
    draw = random.Random(f"{seed} {subject.name}")
    for _ in range(4 * kills):
        if tally.kills == kills:
            break
        _one_kill(subject, draw.uniform(0, span), expected, tally)
    return tally


def _one_kill(subject: Subject, moment: float, expected: Any, tally: Tally) -> None:
    subject.restore()
    killed = run(subject.command, kill_after=moment, mark=subject.mark)
    if not killed.killed:  # this time it was faster than undisturbed
        tally.ended_before += 1
        return
    tally.kills += 1
    where = f"{subject.name}, killed after {moment:.2f} s"
    tally.trouble += [f"{where}: then {problem}" for problem in problems(subject.store)]
    again = run(subject.command)
    if again.code != 0:
        tally.trouble.append(
            f"{where}: run again it ended with {again.code}: {again.output[-1500:]}"
        )
        return
    tally.trouble += [f"{where}: in the end {problem}" for problem in problems(subject.store)]
    place = subject.resumed(again)
    tally.resumed += [] if place is None else [place]
    lost = subject.lost(killed, again)
    tally.most_lost = max(tally.most_lost, lost.steps)
    found = subject.result()
    if lost.trouble:
        tally.trouble.append(f"{where}: {lost.trouble}")
    if found == expected:
        tally.equal += 1
    else:
        tally.trouble.append(f"{where}: expected {expected}, found {found}")


def as_table(tallies: Sequence[Tally]) -> str:
    """Return the figures as a Markdown table."""
    head = (
        *("stage", "undisturbed s", "kills", "resumed from a checkpoint"),
        *("most steps done again", "digests equal"),
    )
    rows = [head, ("---",) * len(head), *(tally.row() for tally in tallies)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
