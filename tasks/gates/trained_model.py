"""Gate after training: finite weights, a curve that went down, better than popularity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from tasks.contracts.catalogues import BASELINES, FIRST_RELEASE_RECIPE
from tasks.contracts.gate_reports import Figure, Series
from tasks.contracts.json_types import Json
from tasks.gates.bounds import TrainingBounds
from tasks.gates.checks import Measurement, Payload, Suite, joined, measured
from tasks.gates.model_measurements import finite_losses, loss_rebound
from tasks.gates.records import number, read_record
from tasks.gates.tensor_files import not_finite, read_tensors
from tasks.gates.wording import in_words, left_out_in_words


def suite(payload: Payload, wanted: TrainingBounds) -> Suite:
    """Return what is expected of weights, curve and select-period scores."""
    report = read_record(payload.path / "report.json", "training_report")
    curve = read_record(payload.path / "curve.json", "learning_curve")
    epochs = [cast("dict[str, Json]", epoch) for epoch in cast("list[Json]", curve["epochs"])]
    return joined(
        Suite(batches=(measured("weights", _weights(payload.path, report, wanted)),)),
        _scores(report, epochs, wanted),
        _learning(report, epochs, wanted),
        Suite(batches=(), key_figures=left_out_in_words(_left_out(report))),
    )


def _weights(folder: Path, report: dict[str, Json], wanted: TrainingBounds) -> list[Measurement]:
    names = sorted(path.stem for path in (folder / "baselines").glob("*.safetensors"))
    files = {"model": folder / "model.safetensors"}
    files |= {name: folder / "baselines" / f"{name}.safetensors" for name in names}
    found = []
    for name, path in files.items():
        bad, _, where = not_finite(path)
        found.append(
            Measurement(
                name=f"weights of {name}",
                value=bad,
                maximum=0,
                unit="count",
                expected="finite numbers",
                where=where,
                why="A weight that is no number: lower the learning rate.",
            )
        )
    missing = sorted({*BASELINES} - {*names} - {*_left_out(report)})
    return [
        *found,
        *_shapes(files["model"], report),
        Measurement(
            name="baselines missing",
            value=len(missing),
            maximum=0,
            unit="count",
            expected="none",
            where=f"({', '.join(missing)})" if missing else "",
        ),
        Measurement(name="recipe", value=str(report.get("recipe")), equals=wanted.recipe),
    ]


def _left_out(report: dict[str, Json]) -> dict[str, Json]:
    """Return the baselines that were not fitted, each with why."""
    return cast("dict[str, Json]", report.get("baselines_left_out") or {})


def _shapes(path: Path, report: dict[str, Json]) -> list[Measurement]:
    shapes = {name: tensor.shape for name, tensor in read_tensors(path)}
    rows = 1 + (number(report, "num_items") or 0)
    with_items = [name for name, shape in shapes.items() if rows in shape]
    parameters = sum(_size(shape) for shape in shapes.values())
    told = number(report, "parameters")
    return [
        Measurement(
            name="tensors over all items",
            value=len(with_items),
            minimum=1,
            unit="count",
            expected=f"at least one with {rows:,.0f} rows (items and padding)",
        ),
        Measurement(
            name="parameters",
            value=parameters,
            minimum=told,
            maximum=told,
            unit="count",
            expected=f"{in_words(told, 'count')}, as the report says",
        ),
    ]


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _scores(
    report: dict[str, Json], epochs: list[dict[str, Json]], wanted: TrainingBounds
) -> Suite:
    scores = cast("dict[str, Json]", report["select_ndcg10"])
    popularity, model = number(scores, "popularity"), number(scores, "model")
    against = f"(popularity {in_words(popularity)})"
    found = []
    if wanted.recipe == FIRST_RELEASE_RECIPE:
        found.append(Measurement(name="select NDCG@10", value=model, above=0.0))
    else:
        found.append(
            Measurement(
                name="select NDCG@10",
                value=model,
                above=popularity if popularity is not None else float("inf"),
                expected="more than popularity's",
                where=against,
                why="Not even the most bought items for everybody were beaten.",
            )
        )
    if epochs:
        best = max((number(epoch, "select_ndcg10") or 0.0 for epoch in epochs), default=None)
        found.append(
            Measurement(
                name="select NDCG@10 of the network alone",
                value=best,
                above=popularity if popularity is not None else float("inf"),
                expected="more than popularity's",
                where=against,
                why="The network learnt nothing from the order of the events.",
            )
        )
    found += _blend(report, wanted)
    figure = Figure(
        title="NDCG@10 on the select period",
        shape="bars",
        labels=tuple(scores),
        series=(Series(name="NDCG@10", values=tuple(number(scores, name) for name in scores)),),
        note="Used to choose; the evaluation gate tests on later events.",
    )
    shown = {
        "recipe": wanted.recipe,
        "select NDCG@10": in_words(model),
        "parameters": in_words(number(report, "parameters"), "count"),
        "items": in_words(number(report, "num_items"), "count"),
    }
    return Suite(
        batches=(measured("scores", found),),
        figures=(figure,),
        key_figures=shown,
    )


def _blend(report: dict[str, Json], wanted: TrainingBounds) -> list[Measurement]:
    weights = report.get("blend_weights")
    if not isinstance(weights, list):
        return []
    total = sum(float(w) for w in weights if isinstance(w, int | float)) or 1.0
    network = float(cast("float", weights[2])) / total  # tasks.models.blend.PARTS
    return [
        Measurement(
            name="the network's share in the blend",
            value=network,
            minimum=wanted.min_blend_weight,
            unit="share",
            severity="warning",
            why="The blend leans on simple rules only: the network was trained for nothing.",
        )
    ]


def _learning(
    report: dict[str, Json], epochs: list[dict[str, Json]], wanted: TrainingBounds
) -> Suite:
    if not epochs:
        return Suite(batches=(), note="fitted by counting: there is no learning curve")
    losses = [number(epoch, "loss") for epoch in epochs]
    known = [loss for loss in losses if loss is not None]
    found = [finite_losses(losses)]
    if len(known) > 1:
        found += [
            Measurement(
                name="lowest loss over the first",
                value=min(known) / known[0],
                maximum=1,
                unit="ratio",
                expected="training that went down",
                where=f"({known[0]:.4g} to {min(known):.4g})",
            ),
            loss_rebound(known, wanted.max_loss_rebound),
        ]
    labels = tuple(str(int(number(epoch, "epoch") or 0)) for epoch in epochs)
    scores = tuple(number(epoch, "select_ndcg10") for epoch in epochs)
    popularity = number(cast("dict[str, Json]", report["select_ndcg10"]), "popularity")
    figures = (
        Figure(
            title="Training loss by epoch",
            shape="line",
            labels=labels,
            series=(Series(name="loss", values=tuple(losses)),),
        ),
        Figure(
            title="Select NDCG@10 by epoch",
            shape="line",
            labels=labels,
            series=(Series(name="network", values=scores),),
            bound=popularity,
            note="The network alone; popularity is the bound.",
        ),
    )
    return Suite(
        batches=(measured("learning", found),),
        figures=figures,
        key_figures={"epochs": str(len(epochs))},
    )
