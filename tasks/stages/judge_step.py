"""Traffic step -> verdict: exposures and outcomes, judged; the verdict also goes to the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.json_types import Json
from tasks.contracts.requests import parse_utc
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.contracts.state_file import replace_text
from tasks.rollout.exposure_files import json_lines, read_exposures
from tasks.rollout.exposures import rollout_folder
from tasks.rollout.judge import judge, verdict_numbers
from tasks.rollout.ledger import LedgerEntry
from tasks.rollout.observation import CutSeen, HotfixSeen, StepObservation, observe
from tasks.rollout.state import ModelState, Note, open_state
from tasks.rollout.traffic_step import TrafficStepBegun

READS: Mapping[str, ArtifactKind] = MappingProxyType({"step": ArtifactKind.TRAFFIC_STEP})
GATED: frozenset[str] = frozenset()
PRODUCES = ArtifactKind.STEP_VERDICT
OBSERVATION = "observation.json"


def configure(context: StageContext) -> dict[str, Json]:
    """Return the release; step, plan and salt are in the step's own content."""
    return {"release_id": context.the_release().release_id}


def run(context: StageContext) -> Outcome:
    """Observe, judge, record; a bad verdict takes the candidate's share away at once."""
    path = context.inputs["step"].path / "step.json"
    begun = TrafficStepBegun.parse(path.read_bytes(), str(path))
    state_dir = context.the_state_dir()
    state = open_state(
        state_dir, begun.model, ObjectStore(context.store_url), records=context.records
    )
    traffic = rollout_folder(state_dir, begun.model, begun.rollout)
    seen = _seen_once(context.work / OBSERVATION, begun, traffic, state)
    cut = state.cut_of(begun.release_id, begun.step)
    if cut is not None:
        seen = replace(seen, cut=_cut_seen(cut))
    verdict = judge(seen)
    (context.out / OBSERVATION).write_text(seen.to_text(), encoding="utf-8")
    (context.out / "verdict.json").write_text(verdict.to_text(), encoding="utf-8")
    if cut is None:  # else the cut's own entry holds the verdict already
        state.record_verdict(
            begun.release_id,
            begun.step,
            verdict.decision,
            numbers=verdict_numbers(verdict),
            note=Note(why=verdict.sentences[0]),
        )
    return Outcome(sentence=verdict.sentences[0], facts={"sentences": list(verdict.sentences)})


def _cut_seen(entry: LedgerEntry) -> CutSeen:
    return CutSeen(sequence=entry.sequence, at=entry.at, who=entry.who, why=entry.why)


def hotfix_of(entries: Iterable[LedgerEntry], begun: TrafficStepBegun) -> HotfixSeen | None:
    """Return the last hotfix of stable in a step."""
    found = None
    for entry in entries:
        details = entry.details
        if (entry.kind, entry.step) != ("hotfixed", begun.step):
            continue
        if details.get("rollout") == begun.rollout:
            instead_of, now = details.get("instead_of"), entry.release_number
            found = HotfixSeen(
                sequence=entry.sequence,
                at=entry.at,
                instead_of=instead_of if isinstance(instead_of, int) else 0,
                now=now or 0,
            )
    return found


def _seen_once(
    kept: Path, begun: TrafficStepBegun, traffic: Path, state: ModelState
) -> StepObservation:
    """Observe, or return what a killed try saw: its verdict may stand in the ledger already."""
    if kept.exists():
        return StepObservation.parse(kept.read_bytes(), str(kept))
    seen = observe(
        begun.facts(),
        read_exposures(traffic, parse_utc(begun.started_at).timestamp()),
        json_lines(traffic / "outcomes.jsonl"),
        hotfix_of(state.history(), begun),
    )
    replace_text(kept, seen.to_text())
    return seen
