"""FeatureSet -> TrainedModel: the recipe's model, and the baselines beside it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import torch

from tasks.contracts.catalogues import Material
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, pretty_json
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.models.event_types import takes_event_types
from tasks.models.interactions import Interactions
from tasks.models.pictures import Pictures
from tasks.models.profile_definition import PROFILE_DEFINITION_FILE, ProfileDefinition
from tasks.models.registry import save_model
from tasks.training import make_classifier
from tasks.training.classifier_files import write_classifier
from tasks.training.device import cpu_name, demand_determinism, device_name, training_device
from tasks.training.fit import Epoch
from tasks.training.make_model import (
    SELECT,
    Made,
    Workshop,
    assist_training,
    baselines_left_out,
    make_baselines,
    make_model,
)
from tasks.training.metrics import evaluate
from tasks.training.next_type import next_type_record, without_types
from tasks.training.picture_recipes import picture_recipe_named
from tasks.training.ranks import joined_ranks
from tasks.training.recipes import recipe_named

__all__ = ["GATED", "PRODUCES", "READS", "assist", "configure", "joined_ranks", "run"]

READS: Mapping[str, ArtifactKind] = MappingProxyType({"features": ArtifactKind.FEATURE_SET})
GATED: frozenset[str] = frozenset({"features"})
PRODUCES = ArtifactKind.TRAINED_MODEL


def configure(context: StageContext) -> dict[str, Json]:
    """Return the recipe with every setting resolved, and the seed."""
    release = context.the_release()
    if release.material is Material.PICTURES:
        _refuse_ranks(release.recipe, context.ranks.size)
        return {"recipe": picture_recipe_named(release.recipe).resolved(release.seed)}
    baskets = _interactions(context).baskets
    recipe = recipe_named(release.recipe, baskets=baskets)
    return {
        "recipe": recipe.resolved(),
        "seed": release.seed,
        "ranks": context.ranks.size,  # they add in another order, and draw their own dropout
    }


def _refuse_ranks(recipe: str, ranks: int) -> None:
    if ranks > 1:
        message = (
            f"train_model: expected one rank for the picture recipe {recipe}, found {ranks}; "
            'next step: let its DAG ask for ranks=1, or HEADRACE_COMPUTE for "train_model": {"ranks": 1}'
        )
        raise BadRequestError(message)


def assist(context: StageContext) -> None:
    """Train beside rank 0, which alone fits baselines, measures and writes."""
    assist_training(_workshop(context))


def run(context: StageContext) -> Outcome:
    """Fit, measure on the select period, and write model and baselines."""
    if context.the_release().material is Material.PICTURES:
        return _train_classifier(context)
    shop = _workshop(context)
    recipe = shop.recipe
    baselines = make_baselines(shop)
    model, curve = make_model(shop, baselines)
    save_model(model.model, model.architecture, model.arguments, context.out)
    for name, made in baselines.items():
        save_model(made.model, made.architecture, made.arguments, context.out / "baselines", name)
    scores = _select_scores(shop, {"model": model, **baselines})
    _write(context, "curve.json", _curve_record(curve))
    _write(context, "report.json", _report_record(shop, model, scores))
    return Outcome(
        sentence=f"{recipe.name}: select NDCG@10 {scores['model']:.4f} against popularity "
        f"{scores['popularity']:.4f}, {len(curve)} epochs",
        facts={
            "threads": recipe.threads,
            "ranks": context.ranks.size,
            "device": device_name(training_device()),
            "cpu": cpu_name(),
            "epochs": len(curve),
            "resumed_from": model.resumed_from,
        },
    )


def _workshop(context: StageContext) -> Workshop:
    release, interactions = context.the_release(), _interactions(context)
    recipe = recipe_named(release.recipe, baskets=interactions.baskets)
    torch.set_num_threads(recipe.threads)
    demand_determinism()
    return Workshop(
        interactions=interactions,
        recipe=recipe,
        seed=release.seed,
        checkpoints=context.work / "checkpoints",
        progress=context.progress,
        ranks=context.ranks,
        checkpoint_seconds=context.checkpoint_seconds,
        profiles=_profiles(context) if recipe.transformer.profile else None,
    )


def _train_classifier(context: StageContext) -> Outcome:
    release = context.the_release()
    recipe = picture_recipe_named(release.recipe)
    torch.set_num_threads(recipe.threads)
    demand_determinism()
    pictures = Pictures.load(context.inputs["features"].path)
    baselines = make_classifier.make_baselines(pictures)
    model = make_classifier.make_classifier(
        pictures,
        recipe,
        baselines,
        seed=release.seed,
        checkpoints=context.work / "checkpoints",
        progress=context.progress,
        checkpoint_seconds=context.checkpoint_seconds,
    )
    report = write_classifier(context.out, recipe.name, pictures, model, baselines)
    accuracy = cast("dict[str, float]", report["select_accuracy"])
    return Outcome(
        sentence=f"{recipe.name}: select accuracy {accuracy['model']:.4f} against class means' "
        f"{accuracy['class_means']:.4f}, {len(model.curve)} epochs",
        facts={
            "threads": recipe.threads,
            "device": device_name(training_device()),
            "cpu": cpu_name(),
            "epochs": len(model.curve),
            "resumed_from": model.resumed_from,
        },
    )


def _profiles(context: StageContext) -> ProfileDefinition:
    return ProfileDefinition.load(context.inputs["features"].path / PROFILE_DEFINITION_FILE)


def _interactions(context: StageContext) -> Interactions:
    return Interactions.load(context.inputs["features"].path / "interactions.npz")


def _select_scores(shop: Workshop, models: Mapping[str, Made]) -> dict[str, float]:
    examples = shop.select_examples()
    length = shop.recipe.max_length
    scores = {}
    for name, made in models.items():
        shop.progress(f"measuring {name} on the select period", None)
        scores[name] = evaluate(made.model, shop.interactions, examples, length).mean_ndcg
    return scores


def _curve_record(curve: list[Epoch]) -> dict[str, Json]:
    return {"format": "learning_curve/1", "epochs": [point.record() for point in curve]}


def _report_record(shop: Workshop, model: Made, scores: Mapping[str, float]) -> dict[str, Json]:
    weights = getattr(model.model, "weights", None) if model.architecture == "blend" else None
    types: dict[str, Json] = {}
    if takes_event_types(model.model):
        types = _types_record(shop, model)
    return {
        "format": "training_report/1",
        "recipe": shop.recipe.name,
        "architecture": model.architecture,
        "max_length": shop.recipe.max_length,
        "num_items": shop.interactions.num_items,
        "exclude_seen": not shop.interactions.repeats_allowed,
        "parameters": sum(tensor.numel() for tensor in model.model.state_dict().values()),
        "fp32_bytes": sum(
            tensor.numel() * tensor.element_size() for tensor in model.model.state_dict().values()
        ),
        "blend_weights": None if weights is None else [round(float(w), 6) for w in weights],
        "select_ndcg10": {name: round(score, 6) for name, score in scores.items()},
        "select_examples": len(shop.select_examples()),
        "baselines_left_out": dict(baselines_left_out(shop.interactions)),
        **types,
    }


def _types_record(shop: Workshop, model: Made) -> dict[str, Json]:
    """Return how the next type is foretold, and what items are worth to a client without types."""
    asked = shop.interactions, shop.select_examples(), shop.recipe.max_length
    plain = evaluate(without_types(model.model), *asked)
    return {
        "select_ndcg10_without_types": round(plain.mean_ndcg, 6),
        "next_type": next_type_record(
            model.model, shop.interactions, shop.interactions.examples(SELECT), asked[2]
        ),
    }


def _write(context: StageContext, name: str, record: dict[str, Json]) -> None:
    (context.out / name).write_text(pretty_json(record), encoding="utf-8")
