"""One door to a stage: the operator of the deployment's runtime, and a stage with its gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace_airflow.deployment import Runtime, the_deployment
from headrace_airflow.local_stage_operator import LocalStageOperator
from headrace_airflow.stage_call import (
    ReadsRule,
    RunReadsRule,
    SettingsRule,
    SkipRule,
    StageCall,
    TaskIds,
)
from tasks.contracts.json_types import Json
from tasks.contracts.stages import STAGE_FACTS, Stage

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator


@dataclass(frozen=True, kw_only=True)
class Made:
    """A stage's task in a DAG and, where it has one, the gate behind it."""

    task: BaseOperator
    gate: BaseOperator | None = None

    @property
    def last(self) -> BaseOperator:
        """Return the task that later ones wait for."""
        return self.gate or self.task


Reads = Mapping[str, Made | tuple[Made, ...]]  # of several, the last one that made something


def run_stage(
    stage: Stage,
    *,
    release: Made | None = None,
    reads: Reads | None = None,
    settings: Mapping[str, Json] | None = None,
    settings_from: SettingsRule | None = None,
    reads_from: ReadsRule | None = None,
    reads_from_run: RunReadsRule | None = None,
    skip_when: SkipRule | None = None,
    fails_nothing: bool = False,
    task_id: str | None = None,
    ranks: int | None = None,
    **airflow: Any,
) -> Made:
    """Add the stage's task and, where the stage is gated, the gate's task behind it.

    `ranks` are the pods that share its work (None: as the deployment says); on one machine it is one.
    """
    call = StageCall(
        stage=stage,
        release=None if release is None else str(release.task.task_id),
        reads={name: _task_ids(made) for name, made in (reads or {}).items()},
        gates={name: _gate_ids(made) for name, made in (reads or {}).items()},
        settings=settings or {},
        settings_from=settings_from,
        reads_from=reads_from,
        reads_from_run=reads_from_run,
        skip_when=skip_when,
        fails_nothing=fails_nothing,
    )
    task = _operator(call, ranks, task_id=task_id or stage.value, **airflow)
    if not STAGE_FACTS[stage].gated:
        return Made(task=task)
    made = Made(task=task)
    gate = run_stage(
        Stage.GATE_ARTIFACT, release=release, reads={"artifact": made}, task_id=_gate_name(stage)
    ).task
    task >> gate
    return Made(task=task, gate=gate)


def _operator(call: StageCall, ranks: int | None, **airflow: Any) -> BaseOperator:
    deployment = the_deployment()
    if deployment.runtime is Runtime.KUBERNETES:
        from headrace_airflow.pod_stage_operator import StageOperator  # noqa: PLC0415  takes 5 s

        return StageOperator(call=call, deployment=deployment, ranks=ranks, **airflow)
    return LocalStageOperator(call=call, deployment=deployment, **airflow)


def _gate_name(stage: Stage) -> str:
    if stage is Stage.JUDGE_STEP:
        return "gate_step"
    return f"gate_{STAGE_FACTS[stage].produces.value}"


def _several(made: Made | tuple[Made, ...]) -> tuple[Made, ...]:
    return made if isinstance(made, tuple) else (made,)


def _task_ids(made: Made | tuple[Made, ...]) -> TaskIds:
    return tuple(str(one.task.task_id) for one in _several(made))


def _gate_ids(made: Made | tuple[Made, ...]) -> TaskIds:
    return tuple(str(one.gate.task_id) for one in _several(made) if one.gate is not None)
