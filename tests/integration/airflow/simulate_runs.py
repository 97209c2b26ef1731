"""Let Airflow's own scheduler decide over runs of release_recommender; no task is executed.

Reads a list of cases {"failed": [...], "skipped": [...], "waiting": [...], "late": [...], "planned": N} from standard input and
prints, per case, the state of the run, of every task, and the order in which tasks started.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

from airflow import settings
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import get_or_create_dagrun
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType
from headrace_airflow.sealed_store import SealedStore
from headrace_airflow.skip_rules import NothingStarted
from headrace_airflow.stage_call import Situation

from tasks.contracts.stage_io import StageRequest

DAG_ID = "release_recommender"


def scheduler_dag(session: Any) -> tuple[Any, Any]:
    manager = DagBundlesManager()
    manager.sync_bundles_to_db(session=session)
    session.commit()
    bundle = next(iter(manager.get_all_dag_bundles()))
    bundle.initialize()
    bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
    sync_bag_to_db(bag, bundle.name, bundle.version)
    assert DagVersion.get_version(DAG_ID)
    dag = bag.dags[DAG_ID]
    return dag, DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))


def outcome(task_id: str, case: dict[str, Any], states: dict[str, str], dag: Any) -> str:
    """Return how a task ends once the scheduler starts it."""
    if task_id in case["failed"]:
        return str(TaskInstanceState.FAILED)
    if task_id in case["waiting"]:
        return str(TaskInstanceState.DEFERRED)
    if task_id in case["skipped"] or _not_planned(task_id, case["planned"]):
        return str(TaskInstanceState.SKIPPED)
    rule = getattr(getattr(dag.get_task(task_id), "call", None), "skip_when", None)
    if isinstance(rule, NothingStarted) and rule(_situation(dag.get_task(task_id), states)):
        return str(TaskInstanceState.SKIPPED)
    return str(TaskInstanceState.SUCCESS)


def _now(schedulable: list[Any], late: list[str]) -> list[Any]:
    return [ti for ti in schedulable if ti.task_id not in late] or schedulable


def _not_planned(task_id: str, planned: int) -> bool:
    group, _, name = task_id.partition(".")
    return name == "shift_traffic" and int(group.removeprefix("step_")) > planned


def _situation(task: Any, states: dict[str, str]) -> Situation:
    ti = SimpleNamespace(dag_id=DAG_ID, run_id="r", get_task_states=lambda **_: {"r": states})
    request = StageRequest(stage=task.call.stage, store_url="file:///nonexistent")
    store = SealedStore(url=request.store_url)
    return Situation(request=request, store=store, context={"ti": ti})


def simulate(number: int, case: dict[str, Any], dag: Any, scheduled: Any, session: Any) -> Any:
    from airflow._shared.timezones import timezone

    moment = timezone.utcnow()
    run = get_or_create_dagrun(
        dag=scheduled,
        start_date=moment,
        logical_date=None,
        data_interval=None,
        run_after=moment,
        run_id=f"case_{number}",
        session=session,
        conf={},
        triggered_by=DagRunTriggeredByType.TEST,
        triggering_user_name="test",
    )
    run.dag = scheduled
    started: list[str] = []
    before: dict[str, str] = {}
    for _ in range(200):
        if run.state != DagRunState.RUNNING:
            break
        schedulable, _ = run.update_state(session=session)
        states = {ti.task_id: str(ti.state) for ti in run.get_task_instances(session=session)}
        if run.state == DagRunState.RUNNING and not schedulable and states == before:
            break  # only somebody who waits is left
        before = states
        for ti in _now(schedulable, case["late"]):
            started.append(ti.task_id)
            ti.state = outcome(ti.task_id, case, states, dag)
            ti.start_date = ti.end_date = timezone.utcnow()
        session.commit()
    tasks = {ti.task_id: str(ti.state) for ti in run.get_task_instances(session=session)}
    return {"run": str(run.state), "tasks": tasks, "started": started}


def main() -> None:
    session = settings.Session()
    dag, scheduled = scheduler_dag(session)
    cases = json.load(sys.stdin)
    found = [simulate(n, case, dag, scheduled, session) for n, case in enumerate(cases)]
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main()
