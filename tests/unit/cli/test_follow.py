"""What a run looks like, read from Airflow's answers."""

from __future__ import annotations

import io

import pytest

from tasks.cli.airflow_api import in_order
from tasks.cli.conclusion import conclude, stage_rows
from tasks.cli.console import Console
from tasks.cli.follow import RunView, TaskView, last_progress, without_evidence
from tasks.cli.screens import PlainScreen, is_unused
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.stages import Stage

AIRFLOW = "http://127.0.0.1:8080"
CHAIN = (
    *("request_release", "ingest_events", "gate_validated_events", "stage_bundle"),
    *("step_1.shift_traffic", "step_1.gate_step", "promote_release", "roll_back_release"),
)


def view(state: str, **tasks: str | TaskView) -> RunView:
    shown = []
    for name in CHAIN:
        task = tasks.get(name.replace(".", "__"), "success")
        shown.append(task if isinstance(task, TaskView) else TaskView(task_id=name, state=task))
    return RunView(state=state, tasks=tuple(shown))


def test_tasks_are_listed_after_all_that_they_wait_for() -> None:
    downstream = {"c": [], "a": ["b", "c"], "b": ["c"]}
    assert in_order(downstream) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("lines", "said"),
    (
        pytest.param(["train_model:  40% epoch 3"], "40% epoch 3", id="with a share"),
        pytest.param(["train_model: looking"], "looking", id="without a share"),
        pytest.param(
            ["train_model: one", "WARNING [x] two"], "one", id="other lines are no progress"
        ),
        pytest.param([], "", id="nothing yet"),
    ),
)
def test_progress_is_the_stages_newest_line(lines: list[str], said: str) -> None:
    assert last_progress(lines) == said


def test_a_termination_sentence_is_shown_without_its_evidence() -> None:
    sentence = f"sealed trained_model/{'a' * 64} manifest sha256:{'b' * 64} | popularity: .1"
    assert without_evidence(sentence) == "popularity: .1"
    assert without_evidence("crashed: no space") == "crashed: no space"


def test_a_promotion_is_exit_0(tiny) -> None:
    promoted = TaskView(task_id="promote_release", state="success", sentence="release 2 serves")
    ending = conclude(view("success", promote_release=promoted), tiny.store, AIRFLOW)
    assert ending.exit_code == ExitCode.DONE
    assert ending.sentence == "promoted: release 2 serves"


def test_the_same_candidate_again_is_exit_0_and_says_so(tiny) -> None:
    ending = conclude(
        view("success", stage_bundle="skipped", promote_release="skipped"), tiny.store, AIRFLOW
    )
    assert ending.exit_code == ExitCode.DONE
    assert ending.sentence.startswith("already serving")


def test_a_refusing_gate_is_exit_3_and_explained_with_its_report(tiny) -> None:
    events = tiny.make("refused")[Stage.INGEST_EVENTS]
    report = tiny.gate(events, passed=False, code="other gates")  # make() has sealed a passing one
    gate = TaskView(
        task_id="gate_validated_events",
        state="failed",
        sentence="Gate refused",
        refusal="Gate refused",
        sealed=report.address,
    )
    made = TaskView(task_id="ingest_events", state="success", sealed=events.address, seconds=2.0)
    refused = view(
        "failed",
        ingest_events=made,
        gate_validated_events=gate,
        stage_bundle="upstream_failed",
        step_1__shift_traffic="upstream_failed",
        step_1__gate_step="upstream_failed",
        promote_release="upstream_failed",
        roll_back_release="skipped",
    )
    ending = conclude(refused, tiny.store, AIRFLOW)
    assert ending.exit_code == ExitCode.GATE_REFUSED
    assert ending.sentence == "refused at gate_validated_events"
    assert ending.lines[0] == "- price: min 0 expected, -4.0 found in 118 of 2.1M rows"
    assert ending.lines[1].endswith("report.html")
    assert ending.lines[2].strip() == f"{AIRFLOW}/headrace/reports/{report.address}/report.html"
    assert ending.lines[3] == "nothing had been staged: users keep what they had"
    rows = {row.stage: row for row in stage_rows(refused, tiny.store)}
    assert rows["ingest_events"].gate == "refused 1 of 1"
    assert list(rows) == ["request_release", "ingest_events"]


@pytest.mark.parametrize(
    ("failed", "exit_code", "said"),
    (
        pytest.param(
            TaskView(task_id="ingest_events", state="failed", sentence="crashed: MemoryError"),
            ExitCode.CRASHED,
            "ingest_events crashed: crashed: MemoryError",
            id="a crash",
        ),
        pytest.param(
            TaskView(task_id="ingest_events", state="failed", refusal="expected column user_id"),
            ExitCode.BAD_REQUEST,
            "ingest_events was asked for something impossible: expected column user_id",
            id="an impossible request",
        ),
    ),
)
def test_what_is_no_refusal_is_not_called_one(
    failed: TaskView, exit_code: ExitCode, said: str, tiny
) -> None:
    ending = conclude(
        view("failed", ingest_events=failed, roll_back_release="skipped"), tiny.store, AIRFLOW
    )
    assert (ending.exit_code, ending.sentence) == (exit_code, said)


def test_steps_that_nobody_asked_for_are_not_shown() -> None:
    assert is_unused(TaskView(task_id="step_7.shift_traffic", state="waiting"))
    assert is_unused(TaskView(task_id="step_7.bake", state="skipped"))
    assert not is_unused(TaskView(task_id="step_1.bake", state="deferred"))
    assert not is_unused(TaskView(task_id="train_model", state="waiting"))


def test_a_plain_screen_says_each_change_once() -> None:
    out = io.StringIO()
    screen = PlainScreen(Console(out=out))
    for state in ("waiting", "running", "running", "success", "success"):
        task = TaskView(task_id="train_model", state=state, sentence="epoch 1", seconds=3.0)
        screen.show(RunView(state="running", tasks=(task,)))
    lines = out.getvalue().splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "train_model running 3 s: epoch 1",
        "train_model success 3 s: epoch 1",
    ]
