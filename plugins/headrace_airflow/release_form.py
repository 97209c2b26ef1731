"""The trigger form of a release: its fields, and what a run makes of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param

from headrace_airflow.compute_choice import DEFAULT_COMPUTE, ComputeTable, compute_schema
from tasks.contracts.catalogues import (
    COMPRESSIONS,
    DEFAULT_RECIPES,
    Material,
    datasets_of,
    recipes_of,
)
from tasks.contracts.requests import (
    CANDIDATE,
    DEFAULT_PLANS,
    MODEL_NAME,
    PLANS,
    RELEASE_ID,
    STABLE,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.contracts.json_types import Json
    from tasks.contracts.requests import ReleaseRequest

_URL = r"^(/|[a-z][a-z0-9+]*://).+"
_UTC = r"^\d{4}-\d\d-\d\dT\d\d:\d\d.*(Z|\+00:00)$"  # Airflow does not check `format`
_OPTIONAL_TEXT = ["null", "string"]


def release_form(
    compute: ComputeTable = DEFAULT_COMPUTE, *, material: Material = Material.EVENTS
) -> dict[str, Param]:
    """Return the fields, each with its JSON schema; `compute` bounds what a run may ask for."""
    events = material is Material.EVENTS
    fields = _fields(compute, material)
    return fields if events else {k: v for k, v in fields.items() if not k.endswith("_url")}


def _fields(compute: ComputeTable, material: Material) -> dict[str, Param]:
    sets = {name: item.summary for name, item in datasets_of(material).items()}
    return {
        "dataset": _choice(next(iter(sets)), sets, material.value.capitalize()),
        "recipe": _choice(DEFAULT_RECIPES[material], recipes_of(material), "Model recipe"),
        "compression": _choice("int8", COMPRESSIONS, "Compression recipe"),
        "plan": _choice(DEFAULT_PLANS[material], _plan_lines(), "Traffic plan"),
        "approval": Param(
            False, type="boolean", title="Approval", description="A person decides before promotion"
        ),
        "model": Param(
            None,
            type=_OPTIONAL_TEXT,
            pattern=f"^{MODEL_NAME.pattern}$",
            title="Model",
            description="Name under which users are served; empty: the data set's own",
        ),
        "as_of": Param(
            None,
            type=_OPTIONAL_TEXT,
            format="date-time",
            pattern=_UTC,
            title="As of (UTC)",
            description="Later events are in the future; empty: the data set's own day",
        ),
        "bake_seconds": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Longest bake in seconds",
            description="Cuts each step of the plan; empty: as planned",
        ),
        "seed": Param(1, type="integer", minimum=0, maximum=2**31 - 1, title="Seed"),
        "events_url": _url("Your events", "parquet or CSV; with dataset 'events' only"),
        "catalogue_url": _url("Your catalogue", "item_id, title, category, brand, price"),
        "mapping_url": _url("Your mapping", "TOML: which of your columns is what (docs/events.md)"),
        "compute": Param(
            None,
            **compute_schema(compute),
            title="Compute",
            description='By stage, such as {"train_model": {"profile": "gpu-train", "cpu_cores": 8}};'
            " empty: the deployment's own. Pods only",
        ),
    }


def form_of_run(context: Mapping[str, Any]) -> dict[str, Json]:
    """Return the form as `request_release` takes it, with the run's own name and time."""
    run = context["dag_run"]
    form: dict[str, Json] = dict(context["params"])
    form.pop("compute", None)  # where a stage runs is no part of what it makes
    form["as_of"] = _ends_in_z(form.get("as_of"))
    return form | {
        "release_id": release_id(str(run.run_id)),
        "requested_at": run.run_after.isoformat(),
    }


def pinned_champion(release: ReleaseRequest) -> dict[str, str]:
    """Return the input `champion`: the bundle that served when the release was requested."""
    return {} if release.champion is None else {"champion": release.champion.bundle}


def release_id(run_id: str) -> str:
    """Return the run's id with nothing in it that a label, a path or a URL would mind."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", run_id)[:120]


def person_of_run(run: Any) -> str:
    """Return who triggered a run by hand, as the ledger names people."""
    name = getattr(run, "triggering_user_name", None)
    return f"person {name}, run {run.run_id}" if name else f"person, run {run.run_id}"


def _ends_in_z(moment: Json) -> Json:
    return moment.replace("+00:00", "Z") if isinstance(moment, str) else moment


def _choice(default: str, names: Mapping[str, str], title: str) -> Param:
    return Param(
        default,
        type="string",
        enum=list(names),
        values_display={name: f"{name}: {line}" for name, line in names.items()},
        title=title,
    )


def _url(title: str, description: str) -> Param:
    return Param(None, type=_OPTIONAL_TEXT, pattern=_URL, title=title, description=description)


def _plan_lines() -> dict[str, str]:
    return {
        name: ", ".join(
            f"{step.share_basis_points / 100:g} % {_span(step.bake_seconds)}" for step in plan.steps
        )
        + f"; {plan.hypothesis}"
        for name, plan in PLANS.items()
    }


def _span(seconds: int) -> str:
    for name, unit in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds % unit == 0:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def rollback_form() -> dict[str, Param]:
    """Return the fields of a rollback by hand; stable is taken out only where it is named."""
    return {
        "model": Param(
            "recommender", type="string", pattern=f"^{MODEL_NAME.pattern}$", title="Model"
        ),
        "release": Param(
            CANDIDATE,
            type="string",
            pattern=f"^{RELEASE_ID.pattern}$",
            examples=[CANDIDATE, STABLE],
            title="Release",
            description="candidate: the release in progress. stable: the one that serves; the one "
            "before it serves again. Or a release's number or id, as `headrace history` names it",
        ),
        "reason": Param(
            "rolled back by hand", type="string", minLength=3, maxLength=500, title="Reason"
        ),
    }


def form_of_rollback(context: Mapping[str, Any]) -> dict[str, Json]:
    """Return what `roll_back_release` takes from a person: which release, why, who, and when."""
    run, form = context["dag_run"], context["params"]
    return {name: form[name] for name in ("model", "release", "reason")} | {
        "requested_by": person_of_run(run),
        "requested_at": run.run_after.isoformat(),
    }


def hotfix_form() -> dict[str, Param]:
    """Return the fields of a hotfix; reason and bundle have no default: nobody sends it by mistake."""
    return {
        "model": Param(
            "recommender", type="string", pattern=f"^{MODEL_NAME.pattern}$", title="Model"
        ),
        "bundle": Param(
            type="string",
            pattern=r"^serving_bundle/[0-9a-f]{64}$",
            title="Bundle",
            description="serving_bundle/KEY of an earlier release, or of one under another name; "
            "its gate has passed",
        ),
        "reason": Param(type="string", minLength=3, maxLength=500, title="Reason"),
    }


def form_of_hotfix(context: Mapping[str, Any]) -> dict[str, Json]:
    """Return what `hotfix_stable` takes from a person: model, reason, and who they are."""
    form = context["params"]
    who = person_of_run(context["dag_run"])
    return {"model": form["model"], "reason": form["reason"], "requested_by": who}


def bundle_of_hotfix(context: Mapping[str, Any]) -> dict[str, str]:
    """Return the input `bundle` as the form names it."""
    return {"bundle": str(context["params"]["bundle"])}
