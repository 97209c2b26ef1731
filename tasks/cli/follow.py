"""Follow a run of a DAG: what each task does now, what it sealed, how it ended."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from tasks.cli.airflow_api import Airflow, AirflowUnreachableError, TaskRun
from tasks.contracts.artifacts import Address, parse_termination

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

POLL_SECONDS = 1.0
DETAIL_SECONDS = 2.0
PATIENCE_SECONDS = 120.0  # Airflow's API may restart while a release runs
BAKE = "bake"
RUNNING_STATES = frozenset({"running", "deferred", "up_for_retry"})
_PROGRESS = re.compile(r"^[a-z_]+: *(\d+%)? ?(.*)$")
_SEALED = re.compile(r"^sealed \S+ manifest sha256:[0-9a-f]{64} \| (?P<sentence>.*)$", re.DOTALL)
_NO_WORDS = (
    "::",
    "Pushing xcom",
    "Could not read served logs",
)  # groups of a log; a task that no worker ran
_REFUSAL_KEY = "refusal"


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """One task as a person sees it."""

    task_id: str
    state: str  # Airflow's word, or "waiting"
    seconds: float | None = None
    sentence: str = ""  # what it does now, or what it said last
    sealed: Address | None = None
    refusal: str | None = None  # its last sentence where it refused

    @property
    def name(self) -> str:
        """Return the task's id within its group."""
        return self.task_id.rpartition(".")[2]


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run: its state and its tasks in the order of the DAG."""

    state: str
    tasks: tuple[TaskView, ...]

    @property
    def ended(self) -> bool:
        """Return whether nothing more will happen."""
        return self.state in {"success", "failed"}

    def task(self, name: str) -> TaskView | None:
        """Return the task with this id."""
        return next((view for view in self.tasks if view.task_id == name), None)


class Screen(Protocol):
    """Where a run is shown while it goes on."""

    def show(self, view: RunView) -> None:
        """Show the newest view."""
        ...


@dataclass(kw_only=True)
class Follower:
    """Asks Airflow about one run; remembers what ended tasks said."""

    airflow: Airflow
    dag: str
    run: str
    traffic_words: Callable[[], str]  # how far the shoppers are, for the tasks that only wait
    _ended: dict[tuple[str, int, str], TaskView] = field(default_factory=dict)
    _asked: dict[str, tuple[float, str]] = field(default_factory=dict)
    _since: dict[tuple[str, int], float] = field(default_factory=dict)
    _order: Sequence[str] = ()

    def follow(self, screen: Screen) -> RunView:
        """Show the run until it ends; return how it ended."""
        last_answer = time.monotonic()
        while True:
            try:
                view = self.look()
                last_answer = time.monotonic()
                screen.show(view)
                if view.ended:
                    return view
            except AirflowUnreachableError:
                if time.monotonic() - last_answer > PATIENCE_SECONDS:
                    raise
            time.sleep(POLL_SECONDS)

    def look(self) -> RunView:
        """Return the run as it is now."""
        if not self._order:
            self._order = self.airflow.task_order(self.dag)
        # The state first: tasks read after a final state are final too.
        state = self.airflow.run_state(self.dag, self.run)
        rows = {row.task_id: row for row in self.airflow.tasks(self.dag, self.run)}
        known = [rows[name] for name in self._order if name in rows]
        return RunView(state=state, tasks=tuple(self._view(row) for row in known))

    def _view(self, row: TaskRun) -> TaskView:
        key = (row.task_id, row.try_number, row.state or "")
        if key in self._ended:
            return self._ended[key]
        view = TaskView(task_id=row.task_id, state=row.state or "waiting", seconds=row.seconds)
        if row.state in {"success", "failed"}:
            view = self._last_words(view, row)
            self._ended[key] = view
        elif row.state in RUNNING_STATES:
            since = self._since.setdefault((row.task_id, row.try_number), time.monotonic())
            seconds = time.monotonic() - since
            view = replace(view, sentence=self._progress(row), seconds=seconds)
        return view

    def _last_words(self, view: TaskView, row: TaskRun) -> TaskView:
        lines = self.airflow.log(self.dag, self.run, row.task_id, row.try_number)
        refusal = None
        if row.state == "failed":
            refusal = self.airflow.xcom(self.dag, self.run, row.task_id, _REFUSAL_KEY)
        said = refusal or _last_sealed(lines) or _last_said(lines)
        evidence = parse_termination(said)
        return replace(
            view,
            sentence=without_evidence(said),
            sealed=None if evidence is None else evidence.address,
            refusal=None if refusal is None else without_evidence(refusal),
        )

    def _progress(self, row: TaskRun) -> str:
        if row.task_id.endswith(f".{BAKE}"):
            return self.traffic_words()
        asked_at, sentence = self._asked.get(row.task_id, (0.0, ""))
        if time.monotonic() - asked_at < DETAIL_SECONDS:
            return sentence
        lines = self.airflow.log(self.dag, self.run, row.task_id, row.try_number)
        sentence = last_progress(lines)
        self._asked[row.task_id] = (time.monotonic(), sentence)
        return sentence


def without_evidence(sentence: str) -> str:
    """Return what a termination sentence says to people."""
    found = _SEALED.match(sentence)
    return found["sentence"] if found else sentence


def last_progress(lines: Sequence[str]) -> str:
    """Return the newest `stage: 40% what it does` of a log, without the stage."""
    for line in reversed(lines):
        found = _PROGRESS.match(line)
        if found:
            percent, said = found.groups()
            return f"{percent} {said}" if percent else said
    return ""


def _last_sealed(lines: Sequence[str]) -> str:
    return next((line for line in reversed(lines) if _SEALED.match(line)), "")


def _last_said(lines: Sequence[str]) -> str:
    spoken = [line.strip() for line in lines if line.strip() and not line.startswith(_NO_WORDS)]
    return spoken[-1][:500] if spoken else ""
