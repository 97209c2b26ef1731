from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import ParamValidationError

from tasks.contracts.requests import MAX_STEPS
from tasks.contracts.stages import STAGE_FACTS, STAGES_BY_HAND, ArtifactKind, Stage

STAGES = Path(__file__).resolve().parents[3] / "tasks" / "stages"
STEP_STAGES = (Stage.SHIFT_TRAFFIC, Stage.JUDGE_STEP)
IN_A_RELEASE = [stage for stage in Stage if stage not in STAGES_BY_HAND]
NO_STAGES = {"approval", "hold_share", "released"}  # a person, the lease meanwhile, the leaf


@pytest.fixture
def release(dags: dict[str, Any]) -> Any:
    return dags["release_recommender"]


def stage_tasks(dag: Any) -> list[Any]:
    ordered = dag.topological_sort()
    return [task for task in ordered if hasattr(task, "call")]


def test_the_tasks_before_the_steps_follow_the_enum(release: Any) -> None:
    order = {task.task_id: number for number, task in enumerate(release.topological_sort())}
    outside = [s for s in IN_A_RELEASE if s not in {*STEP_STAGES, Stage.GATE_ARTIFACT}]
    assert sorted(outside, key=lambda stage: order[stage.value]) == outside


def test_every_stage_is_in_the_dag_and_nothing_else(release: Any) -> None:
    assert {task.call.stage for task in stage_tasks(release)} == set(IN_A_RELEASE)
    others = {task.task_id for task in release.tasks if not hasattr(task, "call")}
    assert others == NO_STAGES | {f"step_{step}.bake" for step in range(1, MAX_STEPS + 1)}


def test_every_gated_stage_is_followed_by_its_gate_and_by_nothing_else_that_works(
    release: Any,
) -> None:
    for task in stage_tasks(release):
        if not STAGE_FACTS[task.call.stage].gated:
            continue
        gates = [
            release.get_task(one)
            for one in task.downstream_task_ids
            if one not in {"roll_back_release", "mirror_release"}
        ]
        assert [gate.call.stage for gate in gates] == [Stage.GATE_ARTIFACT]
        assert gates[0].call.reads == {"artifact": (task.task_id,)}


def test_every_artifact_of_a_gated_stage_is_read_with_its_gates_report(release: Any) -> None:
    for task in stage_tasks(release):
        if task.call.stage is Stage.GATE_ARTIFACT:
            continue
        for name, made_by in task.call.reads.items():
            gated = [one for one in made_by if STAGE_FACTS[_call(release, one).stage].gated]
            assert len(task.call.gates[name]) == len(gated), (task.task_id, name)


def test_whatever_a_task_reads_was_made_before_it(release: Any) -> None:
    for task in stage_tasks(release):
        before = task.get_flat_relative_ids(upstream=True)
        names = {one for ids in task.call.reads.values() for one in ids}
        gates = {one for ids in task.call.gates.values() for one in ids}
        assert names | gates <= before, task.task_id


@pytest.mark.parametrize("stage", [s for s in IN_A_RELEASE if s is not Stage.GATE_ARTIFACT])
def test_the_dag_gives_each_stage_the_inputs_that_it_reads(release: Any, stage: Stage) -> None:
    reads = reads_of(stage)
    needed = {name for name in reads if not name.endswith("?")}
    known = {name.rstrip("?"): kind for name, kind in reads.items()}
    for task in stage_tasks(release):
        if task.call.stage is not stage:
            continue
        assert needed <= set(task.call.reads) <= set(known), task.task_id
        for name, made_by in task.call.reads.items():
            kinds = {STAGE_FACTS[_call(release, one).stage].produces for one in made_by}
            assert kinds == {known[name]}, (task.task_id, name)


def test_there_are_eight_step_groups(release: Any) -> None:
    groups = [name for name in release.task_group.children if name.startswith("step_")]
    assert groups == [f"step_{step}" for step in range(1, MAX_STEPS + 1)]
    assert MAX_STEPS == 8


def test_a_failed_mirror_fails_no_run(release: Any) -> None:
    assert [t.task_id for t in stage_tasks(release) if t.call.fails_nothing] == ["mirror_release"]


def test_no_task_is_a_teardown_for_airflow_ends_a_run_marked_failed_as_green_with_one(
    release: Any,
) -> None:
    assert [task.task_id for task in release.tasks if task.is_teardown] == []


def test_rollback_by_hand_is_one_stage(dags: dict[str, Any]) -> None:
    (task,) = dags["roll_back"].tasks
    assert task.task_id == "roll_back_release"
    form = dags["roll_back"].params.dump()
    run = SimpleNamespace(
        run_id="manual__1",
        triggering_user_name="ann",
        run_after=datetime(2026, 11, 24, 3, tzinfo=UTC),
    )
    request = task.call.request({"ti": None, "dag_run": run, "params": form}, "file:///s")
    assert request.settings == {
        "model": "recommender",
        "release": "candidate",  # stable is taken out only where it is named
        "reason": "rolled back by hand",
        "requested_by": "person ann, run manual__1",
        "requested_at": "2026-11-24T03:00:00+00:00",
    }


@pytest.mark.parametrize(
    ("named", "taken"),
    (("candidate", True), ("stable", True), ("7", True), ("manual__1", True), ("../7", False)),
)
def test_the_form_of_a_rollback_takes_a_role_a_number_or_an_id(
    dags: dict[str, Any], named: str, taken: bool
) -> None:
    param = dags["roll_back"].params.get_param("release")
    if taken:
        assert param.resolve(named) == named
    else:
        with pytest.raises(ParamValidationError):
            param.resolve(named)


def test_a_hotfix_by_hand_is_one_stage_that_reads_the_bundle_of_the_form(
    dags: dict[str, Any],
) -> None:
    (task,) = dags["hotfix_stable"].tasks
    assert task.task_id == "hotfix_stable"
    run = SimpleNamespace(run_id="manual__1", triggering_user_name="ann")
    bundle = f"serving_bundle/{'b' * 64}"
    form = {"model": "shop", "bundle": bundle, "reason": "prices were wrong"}
    request = task.call.request({"ti": None, "dag_run": run, "params": form}, "file:///s")
    assert (request.stage, request.release) == (Stage.HOTFIX_STABLE, None)
    assert request.reads == {"bundle": bundle}
    assert request.reads.keys() == reads_of(Stage.HOTFIX_STABLE).keys()
    who = "person ann, run manual__1"
    assert request.settings == {
        "model": "shop",
        "reason": "prices were wrong",
        "requested_by": who,
    }


@pytest.mark.parametrize(
    ("field", "wrong"),
    (
        pytest.param("bundle", "trained_model/" + "b" * 64, id="another kind of artifact"),
        pytest.param("bundle", "serving_bundle/latest", id="no key"),
        pytest.param("reason", "x", id="no reason"),
        pytest.param("model", "../shop", id="a strange model"),
    ),
)
def test_the_form_of_a_hotfix_refuses_what_names_nothing(
    dags: dict[str, Any], field: str, wrong: str
) -> None:
    params = dags["hotfix_stable"].params
    with pytest.raises(ParamValidationError):
        params.get_param(field).resolve(wrong)


def test_the_form_of_a_hotfix_has_no_default_that_would_be_sent_by_mistake(
    dags: dict[str, Any],
) -> None:
    params = dags["hotfix_stable"].params
    assert list(params) == ["model", "bundle", "reason"]
    for field in ("bundle", "reason"):
        with pytest.raises(ParamValidationError):
            params.get_param(field).resolve()


def test_pausing_by_hand_asks_for_a_reason(dags: dict[str, Any]) -> None:
    dag = dags["pause_or_resume"]
    assert [task.task_id for task in dag.tasks] == ["steer"]
    assert "reason" in dag.params  # and has no default: nobody pauses without saying why


def test_who_approves_is_asked_for_a_reason_and_nothing_of_the_trigger_form(release: Any) -> None:
    assert list(release.get_task("approval").params) == ["reason"]


def test_a_lost_worker_is_no_rejection(release: Any) -> None:
    retries = [release.get_task(one).retries for one in ("approval", "promote_release")]
    assert retries == [2, 2]


def reads_of(stage: Stage) -> dict[str, ArtifactKind]:
    """Return READS of a stage's module from its source: importing all would load every framework."""
    source = (STAGES / f"{stage.value}.py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "READS":
            scope = {"MappingProxyType": dict, "ArtifactKind": ArtifactKind}
            return dict(eval(ast.unparse(node.value or ast.Constant(None)), scope))
    raise AssertionError(f"{stage}: expected an annotated READS, found none")


def _call(dag: Any, task_id: str) -> Any:
    return dag.get_task(task_id).call
