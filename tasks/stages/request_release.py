"""Trigger form -> ReleaseRequest: everything that could change between two tries, read once."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.catalogues import DATASETS
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json
from tasks.contracts.requests import Champion, ReleaseRequest, parse_utc, plan_named
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.rollout.state import open_state

READS: Mapping[str, ArtifactKind] = MappingProxyType({})
GATED: frozenset[str] = frozenset()
PRODUCES = ArtifactKind.RELEASE_REQUEST
FORM_FIELDS = frozenset(
    [
        "release_id",
        "requested_at",
        "model",
        "dataset",
        "as_of",
        "recipe",
        "compression",
        "plan",
        "bake_seconds",
        "seed",
        "approval",
        "events_url",
        "catalogue_url",
        "mapping_url",
    ]
)


def configure(context: StageContext) -> dict[str, Json]:
    """Return the form and who is champion now: a retry after a promotion is another request."""
    champion = _champion(context)
    return {
        "form": dict(context.settings),
        "champion": None if champion is None else dict(vars(champion)),
    }


def run(context: StageContext) -> Outcome:
    """Check the form and seal it; a model takes one release at a time."""
    request = request_from_form(context.settings, _champion(context))
    state = open_state(
        context.the_state_dir(),
        request.model,
        ObjectStore(context.store_url),
        records=context.records,
    )
    state.demand_free(request.release_id)
    (context.out / "request.json").write_text(request.to_text(), encoding="utf-8")
    against = (
        f"against release {request.champion.release_number}"
        if request.champion
        else "as first release"
    )
    sentence = f"{request.model}: {request.recipe} on {request.dataset} {against}"
    return Outcome(sentence=sentence)


def request_from_form(form: Mapping[str, Json], champion: Champion | None) -> ReleaseRequest:
    """Turn the values of the trigger form into a checked request."""
    unknown = sorted(set(form) - FORM_FIELDS)
    if unknown:
        message = f"trigger form: expected fields {sorted(FORM_FIELDS)}, found also {unknown}"
        raise BadRequestError(message)
    dataset = _text(form, "dataset")
    if dataset not in DATASETS:
        message = f"trigger form: dataset: expected one of {sorted(DATASETS)}, found {dataset!r}"
        raise BadRequestError(message)
    return ReleaseRequest(
        release_id=_text(form, "release_id"),
        model=_optional(form, "model") or DATASETS[dataset].default_model,
        dataset=dataset,
        as_of=_as_of(form, dataset),
        recipe=_text(form, "recipe"),
        compression=_text(form, "compression"),
        plan=plan_named(_text(form, "plan"), _whole(form, "bake_seconds")),
        seed=_whole(form, "seed") or 0,
        approval=bool(form.get("approval", False)),
        events_url=_optional(form, "events_url"),
        catalogue_url=_optional(form, "catalogue_url"),
        mapping_url=_optional(form, "mapping_url"),
        champion=champion,
    )


def _champion(context: StageContext) -> Champion | None:
    form = context.settings
    dataset = str(form.get("dataset"))
    if not form.get("model") and dataset not in DATASETS:
        return None  # run() says what is wrong with the form
    model = str(form.get("model") or DATASETS[dataset].default_model)
    return open_state(context.the_state_dir(), model, records=context.records).champion()


def _as_of(form: Mapping[str, Json], dataset: str) -> str:
    chosen = _optional(form, "as_of") or DATASETS[dataset].as_of
    if chosen:
        return chosen
    requested = parse_utc(_text(form, "requested_at"))
    return requested.strftime("%Y-%m-%dT00:00:00Z")


def _optional(form: Mapping[str, Json], name: str) -> str | None:
    value = form.get(name)
    if value is None or value == "":
        return None
    return _text(form, name)


def _text(form: Mapping[str, Json], name: str) -> str:
    value = form.get(name)
    if not isinstance(value, str) or not value:
        message = f"trigger form: {name}: expected text, found {value!r:.80}"
        raise BadRequestError(message)
    return value


def _whole(form: Mapping[str, Json], name: str) -> int | None:
    value = form.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"trigger form: {name}: expected a whole number, found {value!r:.80}"
        raise BadRequestError(message)
    return value
