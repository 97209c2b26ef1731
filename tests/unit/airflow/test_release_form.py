from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import ParamValidationError
from headrace_airflow.release_form import form_of_run, release_form, release_id

from tasks.contracts.catalogues import COMPRESSIONS, RECIPES, Material, datasets_of, recipes_of
from tasks.contracts.requests import PLANS, RELEASE_ID
from tasks.stages.request_release import request_from_form


def form(**chosen: Any) -> dict[str, Any]:
    fields = release_form()
    return {name: param.resolve(chosen.get(name, param.value)) for name, param in fields.items()}


@pytest.mark.parametrize(
    ("field", "names"),
    (
        ("dataset", datasets_of(Material.EVENTS)),
        ("recipe", RECIPES),
        ("compression", COMPRESSIONS),
        ("plan", PLANS),
    ),
)
def test_the_form_offers_exactly_the_catalogue(field: str, names: Any) -> None:
    assert release_form()[field].schema["enum"] == list(names)


def test_the_form_of_a_classifier_offers_pictures_and_no_files_of_events() -> None:
    fields = release_form(material=Material.PICTURES)
    assert fields["dataset"].schema["enum"] == list(datasets_of(Material.PICTURES))
    assert fields["recipe"].schema["enum"] == list(recipes_of(Material.PICTURES))
    assert "recipe" in fields
    assert not [name for name in fields if name.endswith("_url")]


@pytest.mark.parametrize(
    ("field", "value"),
    (
        pytest.param("dataset", "ml-100k", id="an unknown data set"),
        pytest.param("seed", -1, id="a negative seed"),
        pytest.param("bake_seconds", 0, id="no bake at all"),
        pytest.param("model", "My Model", id="a model name with a blank"),
        pytest.param("as_of", "yesterday", id="a day that is no time"),
        pytest.param("events_url", "events.csv", id="a relative path"),
        pytest.param("approval", "yes", id="an approval that is no yes or no"),
        pytest.param("compute", {"train_model": {"gpus": 8}}, id="compute beyond the limits"),
    ),
)
def test_the_form_refuses(field: str, value: object) -> None:
    with pytest.raises(ParamValidationError):
        form(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    (
        ("model", "my-model-2"),
        ("as_of", "2026-01-31T00:00:00+00:00"),
        ("events_url", "s3://bucket/events.parquet"),
        ("events_url", "/data/events.csv"),
        ("bake_seconds", None),
    ),
)
def test_the_form_takes(field: str, value: object) -> None:
    assert form(**{field: value})[field] == value


def context(run_id: str, **chosen: Any) -> dict[str, Any]:
    run = SimpleNamespace(run_id=run_id, run_after=datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC))
    return {"dag_run": run, "params": form(**chosen)}


def test_what_the_form_gives_is_what_request_release_takes() -> None:
    run = context("manual__2026-11-24T01:02:03.5+00:00", as_of="2026-01-31T00:00:00+00:00")
    request = request_from_form(form_of_run(run), champion=None)
    assert request.release_id == "manual__2026-11-24T01-02-03.5-00-00"
    assert request.as_of == "2026-01-31T00:00:00Z"
    assert request.dataset == "complete-journey"


def test_where_a_stage_runs_is_asked_for_and_is_no_part_of_the_request() -> None:
    wish = {"train_model": {"profile": "spot-gpu", "cpu_cores": 2}}
    run = context("r1", compute=wish)
    assert run["params"]["compute"] == wish
    assert form_of_run(run) == form_of_run(context("r1"))


def test_an_order_only_set_is_dated_by_the_run() -> None:
    request = request_from_form(form_of_run(context("r1", dataset="ml-1m")), champion=None)
    assert request.as_of == "2026-11-24T00:00:00Z"


@pytest.mark.parametrize("run_id", ("scheduled__2026-11-24T01:35:43.067450+00:00", "x" * 300))
def test_any_run_id_becomes_a_release_id(run_id: str) -> None:
    assert RELEASE_ID.fullmatch(release_id(run_id))
