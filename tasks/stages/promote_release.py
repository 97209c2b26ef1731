"""Staged slot and favourable verdict -> release: the candidate's slot becomes stable."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, pretty_json
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.rollout.state import ModelState, Note, open_state

READS: Mapping[str, ArtifactKind] = MappingProxyType(
    {"slot": ArtifactKind.STAGED_SLOT, "verdict?": ArtifactKind.STEP_VERDICT}
)
GATED = frozenset({"slot", "verdict"})
PRODUCES = ArtifactKind.RELEASE


def configure(context: StageContext) -> dict[str, Json]:
    """Return the release and why it may be promoted: both go into the ledger."""
    release, note = context.the_release(), _note(context)
    return {
        "release_id": release.release_id,
        "model": release.model,
        "who": note.who,
        "why": note.why,
    }


def run(context: StageContext) -> Outcome:
    """Move the role, and say who serves since when."""
    release = context.the_release()
    entry = _state(context).promote(release.release_id, note=_note(context))
    record: dict[str, Json] = {
        "format": "release/1",
        "model": release.model,
        "release_id": release.release_id,
        "release_number": entry.release_number,
        "promoted_at": entry.at,
        "sequence": entry.sequence,
        "ledger_digest": entry.digest,
        "stable": entry.details.get("stable"),
        "previous": entry.details.get("previous"),
    }
    (context.out / "release.json").write_text(pretty_json(record), encoding="utf-8")
    sentence = f"{release.model}: release {entry.release_number} serves since {entry.at}"
    return Outcome(sentence=sentence)


def _state(context: StageContext) -> ModelState:
    release, store = context.the_release(), ObjectStore(context.store_url)
    return open_state(context.the_state_dir(), release.model, store, records=context.records)


def _note(context: StageContext) -> Note:
    """Return who promotes and why; of a release that was promoted already, who did."""
    approver = context.settings.get("approved_by")
    if isinstance(approver, str) and approver:
        return Note(who=f"person {approver}", why=_why(context))
    release = context.the_release()
    if not release.approval:
        return Note(why=_why(context))
    promoted = _state(context).promotion_of(release.release_id)
    if promoted is None:
        message = (
            f"promote_release: release {release.release_id} of {release.model} asks for an "
            "approval: expected the setting approved_by, found none; a task `approval` that is "
            "marked as a success names nobody: release again, and answer it (`Approve`)"
        )
        raise BadRequestError(message)
    return Note(who=promoted.who, why=promoted.why)


def _why(context: StageContext) -> str:
    why = context.settings.get("reason")
    if isinstance(why, str) and why:
        return why
    if "verdict" not in context.inputs:
        return "the first release: there is no champion to be compared with"
    return f"the verdict {context.inputs['verdict'].address} is favourable"
