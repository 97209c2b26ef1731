"""How a release ended: the verdict in words, its exit code, and a row for each stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.adapters.chain import read_report
from tasks.cli.screens import is_unused
from tasks.contracts.artifacts import Address
from tasks.contracts.errors import HeadraceError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.gate_reports import PAGE_NAME
from tasks.contracts.stages import ArtifactKind, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.adapters.artifact_store import ArtifactStore
    from tasks.cli.follow import RunView, TaskView
    from tasks.contracts.gate_reports import GateReport

COLUMNS = ("stage", "seconds", "gate", "key figure")
STAGE_NAMES = frozenset(stage.value for stage in Stage if stage is not Stage.GATE_ARTIFACT)
MAX_FIGURE = 120
MAX_FAILURES = 8
_GATE_PREFIX = "gate_"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a release ended; `lines` explain it."""

    exit_code: ExitCode
    sentence: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """A stage of the final table."""

    stage: str
    seconds: float | None
    gate: str
    figure: str

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        seconds = "" if self.seconds is None else f"{self.seconds:.1f}"
        return (self.stage, seconds, self.gate, self.figure)


def conclude(view: RunView, store: ArtifactStore, airflow_url: str) -> Ending:
    """Return how the release ended, and why."""
    promoted = view.task(Stage.PROMOTE_RELEASE.value)
    if view.state == "success" and promoted is not None and promoted.state == "success":
        return Ending(exit_code=ExitCode.DONE, sentence=f"promoted: {promoted.sentence}")
    if view.state == "success":
        sentence = "already serving: the candidate has the same bytes as the release that serves"
        return Ending(exit_code=ExitCode.DONE, sentence=sentence)
    failed = next((task for task in view.tasks if task.state == "failed"), None)
    if failed is None:
        sentence = "Airflow ended the run without a failed task; see its page in Airflow"
        return Ending(exit_code=ExitCode.CRASHED, sentence=sentence)
    return _failure(failed, view, store, airflow_url)


def _failure(task: TaskView, view: RunView, store: ArtifactStore, airflow_url: str) -> Ending:
    said = " ".join((task.refusal or task.sentence or "it said nothing").split())
    after = _what_became_of_users(view)
    if task.refusal is None and task.name == "approval":
        return Ending(
            exit_code=ExitCode.GATE_REFUSED,
            sentence="refused by a person, or nobody answered in time",
            lines=(said, after),
        )
    if task.refusal is None:
        sentence = f"{task.task_id} crashed: {said}"
        return Ending(exit_code=ExitCode.CRASHED, sentence=sentence, lines=(after,))
    if not task.name.startswith(_GATE_PREFIX) and not said.startswith("Gate '"):
        sentence = f"{task.task_id} was asked for something impossible: {said}"
        return Ending(exit_code=ExitCode.BAD_REQUEST, sentence=sentence, lines=(after,))
    lines = [*_refusal_lines(task, store, airflow_url), after]
    sentence = f"refused at {task.task_id}"
    return Ending(exit_code=ExitCode.GATE_REFUSED, sentence=sentence, lines=tuple(lines))


def _refusal_lines(task: TaskView, store: ArtifactStore, airflow_url: str) -> list[str]:
    """Return each failed check, and where the whole report can be read."""
    if task.sealed is None or task.sealed.kind is not ArtifactKind.GATE_REPORT:
        return [task.refusal or task.sentence]
    lines = []
    report = _report(store, task.sealed)
    if report is None:
        lines.append(task.refusal or task.sentence)
    else:
        lines += [f"- {check.advice}" for check in report.failures[:MAX_FAILURES]]
    root = store.objects.local_root
    if root is not None:
        folder = root / str(task.sealed) / store.manifest(task.sealed).payload_folder
        lines.append(f"report: {folder / PAGE_NAME}")
    lines.append(f"        {airflow_url}/headrace/reports/{task.sealed}/{PAGE_NAME}")
    return lines


def _what_became_of_users(view: RunView) -> str:
    rollback = view.task(Stage.ROLL_BACK_RELEASE.value)
    if rollback is not None and rollback.state == "failed":
        return "the rollback failed too: `headrace status` and `headrace rollback`"
    if rollback is not None and rollback.state == "success":
        return f"rollback: {rollback.sentence}"
    return "nothing had been staged: users keep what they had"


def stage_rows(view: RunView, store: ArtifactStore) -> list[StageRow]:
    """Return a row for each stage that ran, in the order of the DAG, each with its gate."""
    return list(_stage_rows(view, store))


def _stage_rows(view: RunView, store: ArtifactStore) -> Iterator[StageRow]:
    for task, gate in _with_gates(view):
        report = None if gate is None or gate.sealed is None else _report(store, gate.sealed)
        yield StageRow(
            stage=task.task_id,
            seconds=task.seconds,
            gate="" if gate is None else _gate_word(gate, report),
            figure=_figure(task, report),
        )


def _with_gates(view: RunView) -> Iterator[tuple[TaskView, TaskView | None]]:
    """Pair each stage with the gate behind it: the next gate task of the same group."""
    gates = {task.task_id: task for task in view.tasks if task.name.startswith(_GATE_PREFIX)}
    for task in view.tasks:
        if task.name not in STAGE_NAMES or is_unused(task) or task.state == "upstream_failed":
            continue
        group = task.task_id.rpartition(".")[0]
        kind = task.sealed.kind.value if task.sealed is not None else ""
        own = f"{group}.{_GATE_PREFIX}step" if kind == "step_verdict" else f"{_GATE_PREFIX}{kind}"
        yield task, gates.get(own)


def _gate_word(gate: TaskView, report: GateReport | None) -> str:
    if report is None:
        return gate.state
    warned = f", {len(report.warnings)} warned" if report.warnings else ""
    if report.passed:
        return f"passed {len(report.checks)}{warned}"
    return f"refused {len(report.failures)} of {len(report.checks)}"


def _figure(task: TaskView, report: GateReport | None) -> str:
    figures = dict(report.key_figures or {}) if report is not None else {}
    text = ", ".join(f"{name} {value}" for name, value in figures.items())
    text = text or " ".join(task.sentence.split())
    reused = "re-used; " if task.sentence.startswith("re-used") and figures else ""
    whole = f"{reused}{text}"
    return whole if len(whole) <= MAX_FIGURE else f"{whole[:MAX_FIGURE]}..."


def _report(store: ArtifactStore, address: Address) -> GateReport | None:
    try:
        return read_report(store, address).report
    except HeadraceError:
        return None
