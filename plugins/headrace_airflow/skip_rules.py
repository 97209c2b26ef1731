"""When a task of a release has nothing to do: each rule returns the reason, or None to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace_airflow.approval import APPROVAL, answer_in
from tasks.contracts.artifacts import Address
from tasks.contracts.stages import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace_airflow.stage_call import Situation
    from tasks.contracts.json_types import Json
    from tasks.contracts.requests import ReleaseRequest

STARTED_STATES = frozenset(["success", "failed"])


@dataclass(frozen=True, kw_only=True)
class StepNotPlanned:
    """Skip a traffic step beyond the plan, and every step of a first release."""

    step: int  # 1 is the first

    def __call__(self, situation: Situation) -> str | None:
        """Look at the pinned request."""
        return reason_without_step(_the_release(situation), self.step)


def reason_without_step(release: ReleaseRequest, step: int) -> str | None:
    """Return why a release takes no such step."""
    if release.champion is None:
        return f"{release.model} has no champion: a first release meets its users on promotion"
    planned = len(release.plan.steps)
    if step > planned:
        return f"plan {release.plan.name} has {planned} steps"
    return None


def already_serving(situation: Situation) -> str | None:
    """Skip staging when the candidate's bytes are those that serve now."""
    champion = _the_release(situation).champion
    if champion is None:
        return None
    serving = situation.store.manifest(Address.parse(champion.bundle))
    candidate = situation.store.manifest(Address.parse(situation.request.reads["bundle"]))
    if serving.content != candidate.content:
        return None
    return f"already serving: release {champion.release_number} has the same bytes"


@dataclass(frozen=True, kw_only=True)
class NothingStarted:
    """Skip a rollback when what would have changed something never ran, or the release is out."""

    task_id: str
    promotion: str  # task that promotes: what fails beside it undoes nothing

    def __call__(self, situation: Situation) -> str | None:
        """Ask Airflow for the states of both tasks in this run."""
        states = task_states(situation.context, [self.task_id, self.promotion])
        if states.get(self.promotion) == "success":
            return f"{self.promotion} succeeded; the DAG roll_back takes back what it names"
        state = states.get(self.task_id)
        if state in STARTED_STATES:
            return None
        return f"nothing to roll back: {self.task_id} is {state or 'not started'}"


def why_rolled_back(context: Mapping[str, Any]) -> dict[str, Json]:
    """Return the settings of a rollback: which tasks of this run failed, and whether promotion did.

    A promotion that fails may have written its entry before: only then is what serves taken out.
    """
    ti = context["ti"]
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
    failed = sorted(task_id for task_id, state in states.items() if state == "failed")
    if not failed:
        return {}
    answer = answer_in(context) if APPROVAL in failed else None
    said = f" ({answer['chosen']} by {answer['who']}: {answer['reason']})" if answer else ""
    return {
        "reason": f"failed: {', '.join(failed)}{said}",
        "promotion_failed": Stage.PROMOTE_RELEASE.value in failed,
    }


def no_release(situation: Situation) -> str | None:
    """Skip what needs a release request when there is none."""
    return None if situation.request.release else "there is no release request"


def task_states(context: Mapping[str, Any], task_ids: list[str]) -> dict[str, str | None]:
    """Return the states of tasks of this run."""
    ti = context["ti"]
    found = ti.get_task_states(dag_id=ti.dag_id, task_ids=task_ids, run_ids=[ti.run_id])
    states = found.get(ti.run_id, {})
    return {task_id: states.get(task_id) for task_id in task_ids}


def _the_release(situation: Situation) -> ReleaseRequest:
    return situation.store.release_request(str(situation.request.release))
