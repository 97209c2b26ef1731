from __future__ import annotations

from dataclasses import asdict, replace
from math import inf, nan
from pathlib import Path

import pytest

from tasks.contracts.catalogues import Material
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import (
    PLANS,
    Champion,
    ReleaseRequest,
    TrafficPlan,
    TrafficStep,
    plan_from_record,
    plan_named,
)

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def request(**changes: object) -> ReleaseRequest:
    values = {
        "release_id": "manual-1",
        "model": "recommender",
        "dataset": "complete-journey",
        "as_of": "2018-01-02T00:00:00Z",
        "recipe": "blended_transformer",
        "compression": "int8",
        "plan": plan_named("replay"),
        "champion": Champion(
            release_number=1, release_id="first", bundle=f"serving_bundle/{'a' * 64}"
        ),
    }
    return ReleaseRequest(**{**values, **changes})


def test_the_release_request_of_format_1_is_read_and_written_as_its_golden_file() -> None:
    golden = (GOLDEN / "release_request-1.json").read_text(encoding="utf-8")
    assert request().to_text() == golden
    assert ReleaseRequest.parse(golden, "golden") == request()


@pytest.mark.parametrize(
    ("changes", "expected"),
    (
        pytest.param({"dataset": "netflix"}, "a dataset of", id="an unknown dataset"),
        pytest.param({"recipe": "magic"}, "a recipe of", id="an unknown recipe"),
        pytest.param({"compression": "zip"}, "a compression of", id="an unknown compression"),
        pytest.param({"model": "Reco X"}, "a model name", id="a model name that no host can have"),
        pytest.param({"as_of": "yesterday"}, "ISO 8601", id="a time that is no time"),
        pytest.param({"as_of": "2018-01-02T00:00:00+02:00"}, "UTC", id="a time in another zone"),
        pytest.param({"dataset": "events"}, "events_url when", id="own events without a URL"),
        pytest.param(
            {"events_url": "file:///x.csv"}, "no events_url", id="a URL nobody would read"
        ),
        pytest.param({"seed": -1}, "seed", id="a negative seed"),
        pytest.param({"dataset": "fashion-mnist"}, "a recipe of", id="a recommender of pictures"),
        pytest.param(
            {"recipe": "residual_picture_net"}, "a recipe of", id="a classifier of events"
        ),
        pytest.param(
            {"dataset": "fashion-mnist", "recipe": "keras_two_convolutions"},
            "the compression none for keras_two_convolutions",
            id="a Keras model in int8",
        ),
    ),
)
def test_an_impossible_request_is_refused_with_what_was_expected(changes, expected) -> None:
    with pytest.raises(BadRequestError, match=expected):
        request(**changes)


def test_a_keras_model_is_taken_with_its_weights_as_trained() -> None:
    found = request(
        dataset="fashion-mnist", recipe="keras_two_convolutions", compression="none", model="c"
    )
    assert found.material is Material.PICTURES


def test_an_unknown_field_is_refused_by_name() -> None:
    text = request().to_text().replace('"seed"', '"sead"')
    with pytest.raises(BadRequestError, match="sead"):
        ReleaseRequest.parse(text, "request.json")


def step(**changes: object) -> TrafficStep:
    values = {
        "share_basis_points": 500,
        "judgement": "guardrails",
        "bake_seconds": 1,
        "min_users": 1,
    }
    return TrafficStep(**{**values, **changes})


SHIP = step(share_basis_points=5000, judgement="ship")


@pytest.mark.parametrize(
    ("steps", "expected"),
    (
        pytest.param((), "1 to 8", id="no step"),
        pytest.param((SHIP, step()), "growing", id="a share that shrinks"),
        pytest.param((step(),), "last step that judges ship", id="nothing that decides"),
        pytest.param(
            (step(judgement="ship"), SHIP), "exactly one ship", id="two steps that decide"
        ),
        pytest.param(
            (*(step(share_basis_points=n) for n in range(1, 9)), SHIP), "1 to 8", id="nine steps"
        ),
    ),
)
def test_a_plan_that_could_not_be_walked_is_refused(steps, expected) -> None:
    with pytest.raises(BadRequestError, match=expected):
        TrafficPlan(name="x", steps=steps)


@pytest.mark.parametrize(
    ("limit", "wrong"),
    (
        *(("max_error_ratio", value) for value in (0, 1, -0.1, nan)),
        *(("max_latency_ratio", value) for value in (0.9, inf, nan)),
        *(("min_latency_bound_ms", value) for value in (-1.0, inf, nan)),
        *(("sample_ratio_alpha", value) for value in (0, 1, nan)),
    ),
)
def test_a_plan_that_nobody_can_judge_by_is_refused_where_it_is_made_and_read(
    limit: str, wrong: float
) -> None:
    with pytest.raises(BadRequestError, match=limit):
        replace(PLANS["replay"], **{limit: wrong})
    record = {**asdict(PLANS["replay"]), limit: wrong}
    with pytest.raises(BadRequestError, match=f"^state.json: .*{limit}.*, found"):
        plan_from_record(record, "state.json")


def test_limits_at_their_ends_are_taken() -> None:
    ends = {"max_error_ratio": 0.5, "max_latency_ratio": 1.0, "min_latency_bound_ms": 0.0}
    plan = replace(PLANS["replay"], **ends)
    assert plan_from_record(asdict(plan), "here") == plan


@pytest.mark.parametrize("share", (0, 5001))
def test_a_candidate_never_takes_nothing_or_more_than_half(share: int) -> None:
    with pytest.raises(BadRequestError, match="50 %"):
        step(share_basis_points=share)


def test_bakes_are_cut_but_never_stretched() -> None:
    cut = plan_named("replay", bake_seconds=400)
    assert [item.bake_seconds for item in cut.steps] == [300, 300, 400]
    assert replace(cut, steps=PLANS["replay"].steps) == PLANS["replay"]


@pytest.mark.parametrize("name", ("events_url", "catalogue_url", "mapping_url"))
@pytest.mark.parametrize("dataset", ("events", "taobao"))
def test_credentials_in_a_url_are_never_written_into_a_request(name: str, dataset: str) -> None:
    urls = {"events_url": "s3://bucket/e.parquet", name: "s3://AKIAX:hunter2@bucket/e.parquet"}
    with pytest.raises(BadRequestError, match=f"{name}: expected a URL without cred") as refused:
        request(dataset=dataset, **urls)
    assert "hunter2" not in str(refused.value)
