from __future__ import annotations

from dataclasses import replace

import pytest
from headrace_airflow.pod_identity import PodOutcome, PodRecord, TaskKey, attempt_of, is_ours

from tasks.contracts.errors import BadRequestError

KEY = TaskKey(dag_id="d", run_id="r", task_id="gates.Train_model", run_made="2026-11-25")


def pod_of(key: TaskKey, attempt: int) -> dict[str, object]:
    return {"metadata": {"annotations": key.annotations(attempt)}}


def test_the_name_says_the_task_and_the_attempt() -> None:
    assert KEY.pod_name(3) == f"gates-train-model-{KEY.digest}-3"
    assert len(replace(KEY, task_id="x" * 200).pod_name(10)) <= 63


@pytest.mark.parametrize(
    "other",
    (
        replace(KEY, dag_id="e"),
        replace(KEY, run_id="s"),
        replace(KEY, task_id="t"),
        replace(KEY, map_index=0),
        replace(KEY, run_made="2026-11-26"),
    ),
    ids=("dag", "run", "task", "map index", "a run of the same name made later"),
)
def test_no_two_task_instances_share_a_pod(other: TaskKey) -> None:
    assert other.pod_name(1) != KEY.pod_name(1)
    assert not is_ours(pod_of(other, 1), KEY, 1)


def test_a_pod_is_ours_by_its_marks_and_not_by_its_name() -> None:
    assert is_ours(pod_of(KEY, 2), KEY, 2)
    assert not is_ours(pod_of(KEY, 1), KEY, 2)
    assert not is_ours({"metadata": {"name": KEY.pod_name(2)}}, KEY, 2)
    assert attempt_of({"metadata": {}}) == 0


def test_a_record_survives_the_state_store() -> None:
    record = PodRecord.first(KEY, 2).with_pod("u").closed(PodOutcome.DISRUPTED)
    assert PodRecord.parse(record.to_json()) == record


def test_disruptions_count_in_a_row_only() -> None:
    record = PodRecord.first(KEY, 0).closed(PodOutcome.DISRUPTED).next(KEY, 0)
    assert (record.attempt, record.disruptions, record.uid) == (2, 1, None)
    assert record.closed(PodOutcome.FAILED).next(KEY, 0).disruptions == 0


def test_a_record_that_cannot_be_read_is_no_licence_for_a_second_pod() -> None:
    with pytest.raises(BadRequestError, match="expected a pod_record/1"):
        PodRecord.parse({"name": "x"})
