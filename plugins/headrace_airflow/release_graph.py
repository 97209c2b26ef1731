"""The graph of a release: the same stages, gates and endings whatever the model is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import TaskGroup, chain

from headrace_airflow.approval import APPROVAL, PromotionApproval, approved_by
from headrace_airflow.assets import PROMOTED_RELEASE
from headrace_airflow.bake import BakeOperator
from headrace_airflow.deployment import the_deployment
from headrace_airflow.hold_share import HoldShareOperator
from headrace_airflow.release_form import form_of_run, pinned_champion
from headrace_airflow.skip_rules import (
    NothingStarted,
    StepNotPlanned,
    already_serving,
    no_release,
    why_rolled_back,
)
from headrace_airflow.stage_operator import Made, run_stage
from tasks.contracts.requests import MAX_STEPS
from tasks.contracts.stages import Stage

RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=15)}


def traffic_step(step: int, release: Made, slot: Made, features: Made, before: Made | None) -> Made:
    """Give the candidate its share, let it bake, judge it, and gate the judge's numbers."""
    with TaskGroup(f"step_{step}"):
        shift = run_stage(
            Stage.SHIFT_TRAFFIC,
            release=release,
            reads={"slot": slot, "features": features}
            | ({} if before is None else {"verdict": before}),
            settings={"step": step},
            skip_when=StepNotPlanned(step=step),
        )
        bake = BakeOperator(
            task_id="bake",
            step=step,
            shift=str(shift.task.task_id),
            release=str(release.task.task_id),
            deployment=the_deployment(),
        )
        verdict = run_stage(
            Stage.JUDGE_STEP,
            release=release,
            reads={"step": shift},
            settings={"step": step},
        )
        chain(shift.task, bake, verdict.task)
    chain((before or slot).last, shift.task)
    return verdict


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The tasks that make and stage what is released, each with the gate behind it."""

    request: Made
    events: Made
    features: Made
    model: Made
    compressed: Made
    bundle: Made
    evaluation: Made
    slot: Made


def release_graph(*, train_ranks: int | None = None) -> None:
    """Put the tasks of a release into the DAG at hand; None trains in the deployment's ranks."""
    candidate = _candidate(train_ranks)
    verdicts: list[Made] = []
    for number in range(1, MAX_STEPS + 1):
        before = verdicts[-1] if verdicts else None
        verdicts.append(
            traffic_step(number, candidate.request, candidate.slot, candidate.features, before)
        )
    release, rollback = _decision(candidate, verdicts)
    # A leaf that fails with promotion, so that a rolled back run does not end green.
    released = EmptyOperator(task_id="released", trigger_rule="none_failed")
    chain(release.task, released)
    _mirror(candidate, verdicts, release, rollback)


def _candidate(train_ranks: int | None) -> Candidate:
    request = run_stage(Stage.REQUEST_RELEASE, settings_from=form_of_run)
    events = run_stage(Stage.INGEST_EVENTS, release=request)
    features = run_stage(Stage.BUILD_FEATURES, release=request, reads={"events": events})
    model = run_stage(
        Stage.TRAIN_MODEL, release=request, reads={"features": features}, ranks=train_ranks
    )
    compressed = run_stage(
        Stage.COMPRESS_MODEL, release=request, reads={"model": model, "features": features}
    )
    bundle = run_stage(Stage.BUNDLE_MODEL, release=request, reads={"model": compressed})
    evaluation = run_stage(
        Stage.EVALUATE_MODEL,
        release=request,
        reads={"bundle": bundle, "features": features},
        reads_from=pinned_champion,
    )
    slot = run_stage(
        Stage.STAGE_BUNDLE,
        release=request,
        reads={"bundle": bundle, "evaluation": evaluation, "events": events},
        skip_when=already_serving,
    )
    made = (events, features, model, compressed, bundle, evaluation, slot)
    chain(request.task, *[task for one in made for task in (one.task, one.last)])
    return Candidate(
        request=request,
        events=events,
        features=features,
        model=model,
        compressed=compressed,
        bundle=bundle,
        evaluation=evaluation,
        slot=slot,
    )


def _decision(candidate: Candidate, verdicts: Sequence[Made]) -> tuple[Made, Made]:
    """Return promotion and rollback, behind all gates and, where asked for, a person."""
    request, slot = candidate.request, candidate.slot
    gates = [slot.last, *[verdict.last for verdict in verdicts]]
    # Skipped steps stop nobody; a failed gate stops both; "already serving" skips both.
    approval = PromotionApproval(
        task_id=APPROVAL,
        release=str(request.task.task_id),
        deployment=the_deployment(),
        trigger_rule="none_failed_min_one_success",
    )
    held = HoldShareOperator(
        task_id="hold_share",
        release=str(request.task.task_id),
        deployment=the_deployment(),
        trigger_rule="none_failed_min_one_success",
    )
    chain(gates, held)
    release = run_stage(
        Stage.PROMOTE_RELEASE,
        release=request,
        reads={"slot": slot, "verdict": tuple(verdicts)},
        settings_from=approved_by,
        trigger_rule="none_failed_min_one_success",
        outlets=[PROMOTED_RELEASE],
    )
    chain(gates, approval, release.task)
    chain(gates, release.task)
    # Airflow's one_failed is also met when everything before staging failed: the rule looks.
    rollback = run_stage(
        Stage.ROLL_BACK_RELEASE,
        release=request,
        reads={"slot": slot},
        settings_from=why_rolled_back,
        skip_when=NothingStarted(
            task_id=str(slot.task.task_id), promotion=str(release.task.task_id)
        ),
        trigger_rule="one_failed",
    )
    chain([slot.task, *gates, held, approval, release.task], rollback.task)
    return release, rollback


def _mirror(candidate: Candidate, verdicts: Sequence[Made], release: Made, rollback: Made) -> None:
    mirror = run_stage(
        Stage.MIRROR_RELEASE,
        release=candidate.request,
        reads={
            "events": candidate.events,
            "features": candidate.features,
            "model": candidate.model,
            "compressed": candidate.compressed,
            "bundle": candidate.bundle,
            "evaluation": candidate.evaluation,
            "slot": candidate.slot,
            "verdict": tuple(verdicts),
            "released": release,
            "rollback": rollback,
        },
        skip_when=no_release,
        fails_nothing=True,
        trigger_rule="all_done",
    )
    chain([release.task, rollback.task], mirror.task)
