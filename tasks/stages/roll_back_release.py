"""Any point after staging -> rollback: the candidate leaves, or the previous release serves again."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, pretty_json
from tasks.contracts.requests import MODEL_NAME
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.rollout.ledger import LedgerEntry
from tasks.rollout.state import ModelState, Note, open_state

READS: Mapping[str, ArtifactKind] = MappingProxyType({"slot?": ArtifactKind.STAGED_SLOT})
GATED: frozenset[str] = frozenset()
PRODUCES = ArtifactKind.ROLLBACK
AFTER_FAILURE = "a task after staging failed"


def configure(context: StageContext) -> dict[str, Json]:
    """Return whose rollback it is: a release's own, or one run of a person's."""
    model, by_run = _model(context), context.settings.get("requested_by_run")
    if context.release is None and not by_run:
        message = "roll_back_release: expected a release or the setting requested_by_run"
        raise BadRequestError(message)
    release_id = None if context.release is None else context.release.release_id
    return {"model": model, "release_id": release_id, "by_run": by_run, "why": _why(context)}


def run(context: StageContext) -> Outcome:
    """Take the release out; where nothing reached a slot there is nothing to do."""
    model = _model(context)
    state = open_state(
        context.the_state_dir(), model, ObjectStore(context.store_url), records=context.records
    )
    if context.release is not None:
        entry = state.roll_back(context.release.release_id, note=Note(why=_why(context)))
    else:
        entry = _roll_back_current(state, context)
    stable = None if entry is None else entry.details.get("stable")
    record: dict[str, Json] = {
        "format": "rollback/1",
        "model": model,
        "release_id": None if entry is None else entry.release_id,
        "release_number": None if entry is None else entry.release_number,
        "why": _why(context),
        "rolled_back_at": None if entry is None else entry.at,
        "sequence": None if entry is None else entry.sequence,
        "stable": stable,
    }
    (context.out / "rollback.json").write_text(pretty_json(record), encoding="utf-8")
    return Outcome(sentence=_sentence(model, entry, stable))


def _roll_back_current(state: ModelState, context: StageContext) -> LedgerEntry | None:
    """Take out the release in progress, else the stable one; a repeated run finds its own entry."""
    who = f"person, run {context.settings['requested_by_run']}"
    for entry in reversed(state.history()):
        if entry.who == who and entry.kind == "rolled_back":
            return entry
    record = state.peek()
    stable = record.stable
    release_id = record.release_id or (None if stable is None else stable.release_id)
    if release_id is None:
        message = f"{state.model}: expected a release to roll back, found none"
        raise BadRequestError(message)
    return state.roll_back(release_id, note=Note(who=who, why=_why(context)))


def _model(context: StageContext) -> str:
    if context.release is not None:
        return context.release.model
    model = context.settings.get("model")
    if not isinstance(model, str) or not MODEL_NAME.fullmatch(model):
        message = f"roll_back_release: expected the setting model, found {model!r:.80}"
        raise BadRequestError(message)
    return model


def _why(context: StageContext) -> str:
    why = context.settings.get("reason")
    return why if isinstance(why, str) and why else AFTER_FAILURE


def _sentence(model: str, entry: LedgerEntry | None, stable: Json) -> str:
    if entry is None:
        return f"{model}: nothing to roll back: the release never reached a slot"
    if not isinstance(stable, dict):
        return f"{model}: release {entry.release_number} was taken out; nothing serves"
    return (
        f"{model}: release {entry.release_number} was taken out at {entry.at}; "
        f"release {stable['release_number']} serves"
    )
