"""The stage that trains: features in, a model with its baselines out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from tasks.contracts.artifacts import Manifest
from tasks.contracts.catalogues import BASELINES
from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.contracts.ranks import Ranks
from tasks.contracts.requests import ReleaseRequest, plan_named
from tasks.contracts.stage_io import StageContext, StageInput
from tasks.models.interactions import EventRows, Interactions
from tasks.models.registry import load_model
from tasks.stages import train_model
from tasks.training.device import cpu_name
from tasks.training.make_model import COMPARED_MAX_ITEMS, baselines_left_out

USERS, STEPS, ITEMS = 8, 12, 10


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Eight users take one item a step, going round ten shelves."""
    user = np.repeat(np.arange(USERS), STEPS)
    step = np.tile(np.arange(STEPS), USERS)
    rows = EventRows(
        item_ids=np.asarray([f"i{place}" for place in range(ITEMS)]),
        user_ids=np.asarray([f"u{place}" for place in range(USERS)]),
        user=user,
        item=(user + step) % ITEMS + 1,
        basket=step,
        event_type=np.full(len(user), 3),
        time=step * 86400,
        period=np.select(
            [step >= 11, step >= 10, step >= 8], [Period.CANARY, Period.GATE, Period.SELECT], 0
        ),
        repeats_allowed=True,
        baskets=True,
        order_only=False,
    )
    folder = tmp_path / "features"
    folder.mkdir()
    Interactions.from_rows(rows).save(folder / "interactions.npz")
    return folder


def context_of(folder: Path, features: Path, recipe: str) -> StageContext:
    release = ReleaseRequest(
        release_id="r1",
        model="recommender",
        dataset="complete-journey",
        as_of="2018-01-02T00:00:00Z",
        recipe=recipe,
        compression="none",
        plan=plan_named("replay"),
    )
    out, work = folder / "out", folder / "work"
    out.mkdir(parents=True)
    work.mkdir()
    manifest = cast("Manifest", None)  # the runner checks manifests; this stage reads the payload
    return StageContext(
        inputs={"features": StageInput(address="feature_set/x", manifest=manifest, path=features)},
        out=out,
        work=work,
        progress=lambda _sentence, _fraction: None,
        store_url="file:///nowhere",
        release=release,
    )


def payload(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_blend_and_every_baseline_are_written_and_load(tmp_path, features):
    context = context_of(tmp_path / "one", features, "blended_transformer")

    outcome = train_model.run(context)

    assert set(payload(context.out)) == {
        "model.json",
        "model.safetensors",
        "curve.json",
        "report.json",
        *(f"baselines/{name}.{kind}" for name in BASELINES for kind in ("json", "safetensors")),
    }
    items, ago = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 1]])
    for model in (
        load_model(context.out),
        load_model(context.out / "baselines", "markov"),
        load_model(context.out / "baselines", "personal_frequency"),
    ):
        assert model(items, ago).shape == (1, ITEMS + 1)
    report = json.loads((context.out / "report.json").read_text("utf-8"))
    assert report["exclude_seen"] is False
    assert set(report["select_ndcg10"]) == {"model", *BASELINES}
    assert report["baselines_left_out"] == {}
    assert outcome.sentence.startswith("blended_transformer: select NDCG@10")


@pytest.mark.parametrize("recipe", ("blended_transformer", "gru", "ials"))
def test_two_runs_write_the_same_bytes(tmp_path, features, recipe):
    for name in ("one", "two"):
        train_model.run(context_of(tmp_path / name, features, recipe))

    assert payload(tmp_path / "one" / "out") == payload(tmp_path / "two" / "out")


class KilledError(Exception):
    """Stands for SIGKILL: nothing of the process is left but its files."""


@pytest.mark.parametrize(
    ("seconds", "resumed_from"), ((0.0, "epoch 0 and batch 1"), (3600.0, None))
)
def test_a_checkpoint_is_written_as_often_as_it_is_told(tmp_path, features, seconds, resumed_from):
    def kill(sentence: str, _fraction: float | None) -> None:
        if sentence.startswith("epoch 1, batch 1"):
            raise KilledError

    context = replace(context_of(tmp_path / "one", features, "gru"), checkpoint_seconds=seconds)
    with pytest.raises(KilledError):
        train_model.run(replace(context, progress=kill))

    assert train_model.run(context).facts["resumed_from"] == resumed_from


def test_facts_name_the_cpu_type_and_the_threads(tmp_path, features):
    facts = train_model.run(context_of(tmp_path / "one", features, "gru")).facts

    assert (facts["cpu"], facts["threads"]) == (cpu_name(), torch.get_num_threads())


def test_a_first_release_of_popularity_learns_nothing_by_steps(tmp_path, features):
    context = context_of(tmp_path / "one", features, "popularity")

    train_model.run(context)

    curve = json.loads((context.out / "curve.json").read_text("utf-8"))
    assert curve["epochs"] == []
    model = json.loads((context.out / "model.json").read_text("utf-8"))
    assert model["architecture"] == "popularity"


@pytest.mark.parametrize("recipe", ("first_order_markov", "ease", "item_knn", "ials"))
def test_a_recipe_is_fitted_though_it_is_left_out_as_a_baseline(
    tmp_path, features, recipe, monkeypatch
):
    monkeypatch.setattr("tasks.training.make_model.BASELINES", ("popularity", "markov"))
    context = context_of(tmp_path / "one", features, recipe)

    train_model.run(context)

    assert json.loads((context.out / "model.json").read_text("utf-8"))["architecture"] == recipe
    assert not (context.out / "baselines" / f"{recipe}.json").exists()
    items, ago = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 1]])
    assert bool((load_model(context.out)(items, ago)[0, 1:] > 0).any())


def test_a_chain_of_order_1_looks_at_the_last_step_only(tmp_path, features):
    context = context_of(tmp_path / "one", features, "first_order_markov")

    train_model.run(context)

    model = load_model(context.out)
    one, other = torch.tensor([[1, 5, 2]]), torch.tensor([[9, 7, 2]])
    ago = torch.tensor([[3, 2, 1]])
    assert model(one, ago)[0].argmax() == 3  # everybody goes on to the next shelf
    assert torch.allclose(model(one, ago), model(other, ago), atol=1e-6)


def test_where_nothing_is_taken_twice_seen_items_are_left_out(tmp_path, features):
    once = replace(Interactions.load(features / "interactions.npz"), repeats_allowed=False)
    once.save(features / "interactions.npz")
    context = context_of(tmp_path / "one", features, "markov")

    train_model.run(context)

    report = json.loads((context.out / "report.json").read_text("utf-8"))
    assert report["exclude_seen"] is True
    baselines = {path.stem for path in (context.out / "baselines").glob("*.json")}
    assert baselines == {*BASELINES} - {"personal_frequency"}
    assert report["baselines_left_out"] == {
        "personal_frequency": "nothing is taken twice, so it ranks as popularity does"
    }
    assert set(report["select_ndcg10"]) == {"model", *baselines}


@pytest.mark.parametrize(
    ("more_items", "repeats", "left_out"),
    (
        pytest.param(0, True, set(), id="few enough items: none"),
        pytest.param(1, True, {"item_knn", "ease", "ials"}, id="too many: who took both"),
        pytest.param(1, False, {"personal_frequency"}, id="too many, nothing taken twice"),
    ),
)
def test_who_took_both_is_left_out_above_a_number_of_items_where_habits_are_there_to_beat(
    features, more_items, repeats, left_out
):
    few = Interactions.load(features / "interactions.npz")
    names = np.asarray([f"i{place}" for place in range(COMPARED_MAX_ITEMS + more_items)])
    shop = replace(few, item_ids=names, repeats_allowed=repeats)

    found = baselines_left_out(shop)

    assert set(found) == left_out
    if repeats and more_items:
        why = "5,001 items; where items are taken again it is fitted up to 5,000"
        assert set(found.values()) == {why}


@pytest.mark.parametrize("rank", (0, 1))
def test_a_picture_recipe_refuses_ranks_before_anything_is_read(tmp_path, rank):
    context = context_of(tmp_path / "one", tmp_path / "nothing", "markov")
    pictures = replace(
        context.the_release(), dataset="fashion-mnist", recipe="residual_picture_net"
    )
    told = replace(context, release=pictures)

    with pytest.raises(BadRequestError, match='residual_picture_net, found 2; .*"ranks": 1'):
        train_model.configure(replace(told, ranks=Ranks(rank=rank, size=2)))

    assert train_model.configure(told)["recipe"]["name"] == "residual_picture_net"


def test_recipe_and_seed_are_part_of_the_key(tmp_path, features):
    one = train_model.configure(context_of(tmp_path / "one", features, "markov"))
    other = train_model.configure(context_of(tmp_path / "two", features, "transformer"))

    assert one != other
    assert one["seed"] == 1
