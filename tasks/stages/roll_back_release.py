"""Any point after staging -> rollback: the candidate leaves; by hand, the one that a person names.

A release's own run takes out its candidate. Once promoted, it takes stable out only where that
promotion itself failed just after its entry: whoever clears a task must not end what serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, pretty_json
from tasks.contracts.requests import CANDIDATE, MODEL_NAME, RELEASE_ID, parse_utc
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.rollout.ledger import LedgerEntry
from tasks.rollout.state import ModelState, Note, open_state
from tasks.rollout.take_back import take_back

READS: Mapping[str, ArtifactKind] = MappingProxyType({"slot?": ArtifactKind.STAGED_SLOT})
GATED: frozenset[str] = frozenset()
PRODUCES = ArtifactKind.ROLLBACK
AFTER_FAILURE = "a task after staging failed"
MAX_WORDS = 500
TRIES_OF_PROMOTION = timedelta(hours=2)  # a task that is cleared later fails for another reason


def configure(context: StageContext) -> dict[str, Json]:
    """Return whose rollback it is: a release's own, or one run of a person's.

    What had nothing to do is sealed too; the number tells it from the rollback of a later staging.
    """
    whose: dict[str, Json] = {"model": _model(context), "why": _why(context)}
    if context.release is not None:
        release_id = context.release.release_id
        return whose | {
            "release_id": release_id,
            "release_number": _state(context).number_of(release_id),
            "even_stable": _even_stable(context),
        }
    _asked_at(context)  # refused before anything is done
    return whose | {"who": _person(context), "named": _named(context)}


def run(context: StageContext) -> Outcome:
    """Take the release out; where nothing reached a slot there is nothing to do."""
    model, state = _model(context), _state(context)
    if context.release is not None:
        entry = state.roll_back(
            context.release.release_id,
            note=Note(why=_why(context)),
            even_stable=_even_stable(context),
        )
    else:
        entry = _take_back_by_hand(state, context)
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
    if entry is None:
        return Outcome(sentence=_left_alone(state, context.the_release().release_id))
    return Outcome(sentence=_sentence(model, entry, stable))


def _state(context: StageContext) -> ModelState:
    store = ObjectStore(context.store_url)
    return open_state(context.the_state_dir(), _model(context), store, records=context.records)


def _take_back_by_hand(state: ModelState, context: StageContext) -> LedgerEntry:
    """Take out what the person named when the run was triggered; a later try finds its own entry."""
    who = _person(context)
    for entry in reversed(state.history()):
        if entry.who == who and entry.kind == "rolled_back":
            return entry
    note = Note(who=who, why=_why(context))
    return take_back(state, _named(context), note=note, asked_at=_asked_at(context))


def _person(context: StageContext) -> str:
    who = context.settings.get("requested_by")
    if not isinstance(who, str) or not who.startswith("person") or len(who) > MAX_WORDS:
        message = (
            "roll_back_release: expected a release, or the setting requested_by, a person and "
            f"their run, found {who!r:.200}"
        )
        raise BadRequestError(message)
    return who


def _asked_at(context: StageContext) -> datetime:
    return parse_utc(str(context.settings.get("requested_at")))


def _named(context: StageContext) -> str:
    named = context.settings.get("release", CANDIDATE)
    if not isinstance(named, str) or not RELEASE_ID.fullmatch(named):
        message = (
            "roll_back_release: expected the setting release to be candidate, stable, or the "
            f"number or id of a release, found {named!r:.130}"
        )
        raise BadRequestError(message)
    return named


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


def _even_stable(context: StageContext) -> bool:
    """Return whether this run's promotion failed after it had moved users, not one cleared later."""
    if context.settings.get("promotion_failed") is not True or context.release is None:
        return False
    promoted = _state(context).promotion_of(context.release.release_id)
    return promoted is not None and datetime.now(UTC) - parse_utc(promoted.at) < TRIES_OF_PROMOTION


def _left_alone(state: ModelState, release_id: str) -> str:
    stable = state.peek().stable
    if stable is None or stable.release_id != release_id:
        return f"{state.model}: nothing to roll back: the release is in no slot that users meet"
    return (
        f"{state.model}: nothing was changed: release {stable.release_number} was promoted and "
        "serves; the DAG roll_back with the release `stable` takes it out"
    )


def _sentence(model: str, entry: LedgerEntry, stable: Json) -> str:
    if not isinstance(stable, dict):
        return f"{model}: release {entry.release_number} was taken out; nothing serves"
    return (
        f"{model}: release {entry.release_number} was taken out at {entry.at}; "
        f"release {stable['release_number']} serves"
    )
