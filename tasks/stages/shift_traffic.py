"""Staged slot -> traffic step: the candidate gets the step's share, under a lease."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.artifacts import Address
from tasks.contracts.catalogues import OUTCOMES, Material
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, parse_object
from tasks.contracts.requests import ReleaseRequest
from tasks.contracts.served_signatures import NEXT_EVENT
from tasks.contracts.stage_io import Outcome, StageContext, StageInput
from tasks.contracts.stages import ArtifactKind
from tasks.models.interactions import Interactions
from tasks.models.pictures import Pictures
from tasks.rollout.exposures import rollout_folder
from tasks.rollout.picture_requests import plan_picture_replay
from tasks.rollout.record import StateRecord
from tasks.rollout.replay import REQUESTS_FILE
from tasks.rollout.replay_requests import plan_replay
from tasks.rollout.state import ModelState, open_state
from tasks.rollout.step_requests import StepRequests
from tasks.rollout.traffic_step import per_try_timeout_ms, step_begun

READS: Mapping[str, ArtifactKind] = MappingProxyType(
    {
        "slot": ArtifactKind.STAGED_SLOT,
        "features": ArtifactKind.FEATURE_SET,
        "verdict?": ArtifactKind.STEP_VERDICT,
    }
)
GATED = frozenset({"slot", "verdict"})
PRODUCES = ArtifactKind.TRAFFIC_STEP


def configure(context: StageContext) -> dict[str, Json]:
    """Return step, plan and release: the same release never takes the same step twice."""
    release = context.the_release()
    return {
        "release_id": release.release_id,
        "model": release.model,
        "step": _step(context, release),
        "plan": asdict(release.plan),
    }


def run(context: StageContext) -> Outcome:
    """Prepare the replay, begin the step, and describe it."""
    release = context.the_release()
    step = _step(context, release)
    state = open_state(
        context.the_state_dir(),
        release.model,
        ObjectStore(context.store_url),
        records=context.records,
    )
    if step == 1:
        _prepare_replay(context, release, state)
    timeout_ms = per_try_timeout_ms(release.plan, _stable_p99_ms(context.inputs))
    entry = state.begin_step(release.release_id, step, release.plan, per_try_timeout_ms=timeout_ms)
    begun = step_begun(state.peek(), entry, release.plan, OUTCOMES[release.material])
    (context.out / "step.json").write_text(begun.to_text(), encoding="utf-8")
    sentence = (
        f"{release.model}: step {step} of {begun.steps}: {begun.percent:g} % of users meet "
        f"release {begun.candidate_release_number} since {begun.started_at}"
    )
    return Outcome(sentence=sentence)


def _step(context: StageContext, release: ReleaseRequest) -> int:
    step = context.settings.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        message = f"shift_traffic: expected the setting step, 1 or more, found {step!r:.80}"
        raise BadRequestError(message)
    if step > len(release.plan.steps):
        message = (
            f"shift_traffic: plan {release.plan.name} has {len(release.plan.steps)} steps, "
            f"found step {step}"
        )
        raise BadRequestError(message)
    return step


def _prepare_replay(context: StageContext, release: ReleaseRequest, state: ModelState) -> None:
    shares = [step.replay_share for step in release.plan.steps]
    rollout = state.peek().rollout
    if not any(shares) or rollout is None:
        return
    folder = rollout_folder(context.the_state_dir(), release.model, rollout)
    if (folder / REQUESTS_FILE).exists():
        return
    store = ArtifactStore(ObjectStore(context.store_url), cache=context.work)
    typed = _both_read_types(store, state.peek())
    _planned(context, release, shares, typed=typed).save(folder / REQUESTS_FILE)


def _planned(
    context: StageContext, release: ReleaseRequest, shares: Sequence[float], *, typed: bool
) -> StepRequests:
    features = context.inputs["features"].path
    if release.material is Material.PICTURES:
        return plan_picture_replay(Pictures.load(features), shares)
    return plan_replay(Interactions.load(features / "interactions.npz"), shares, typed=typed)


def _both_read_types(store: ArtifactStore, record: StateRecord) -> bool:
    """Say whether event types may be sent: a user may meet either model. Else none are, which all answer."""
    addresses = [one.bundle if one else None for one in (record.candidate, record.stable)]
    return all(address is not None and _reads_types(store, address) for address in addresses)


def _reads_types(store: ArtifactStore, bundle: str) -> bool:
    manifest = store.find(Address.parse(bundle))
    if manifest is None:  # collected, but its slot serves still
        return False
    where = f"{bundle}/{manifest.payload_folder}/bundle.json"
    return NEXT_EVENT in parse_object(store.objects.read(where), where)


def _stable_p99_ms(inputs: Mapping[str, StageInput]) -> float | None:
    """Return stable's largest known p99: of the infra check, and of users in the step before."""
    infra = _record(inputs["slot"].path / "infra.json")
    alone = (infra.get("latency_ms") or {}).get("stable") or {}
    p99s = [alone.get("p99")]
    if "verdict" in inputs:  # under the load of users a server is slower than alone
        verdict = _record(inputs["verdict"].path / "verdict.json")
        p99s.append((verdict["variants"]["stable"]["p99_ms"] or {}).get("estimate"))
    return max((float(p99) for p99 in p99s if p99 is not None), default=None)


def _record(path: Path) -> Any:
    return parse_object(path.read_bytes(), str(path))
