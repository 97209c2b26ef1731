"""TrainedModel -> CompressedModel: smaller weights, neutral graphs, golden requests."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tasks.bundling.aten_export import Export, export_module
from tasks.bundling.golden import GOLDEN_FILE, Answers, Golden, Requests, TypedAnswers
from tasks.bundling.golden_pictures import GoldenPictures, PictureRequests
from tasks.bundling.golden_profiles import (
    GOLDEN_PROFILES_FILE,
    PROFILE_FOLDER,
    GoldenProfiles,
)
from tasks.compression.classifier import (
    CompressedClassifier,
    KerasClassifier,
    by_class,
    classified,
    is_keras,
    picture_arrays,
)
from tasks.compression.compress import CompressedModel, compress
from tasks.compression.golden_requests import (
    answer,
    next_type_answer,
    overlap,
    request_arrays,
    request_types,
)
from tasks.compression.user_profile import (
    golden_profile_requests,
    profile_answers,
    shown_inputs,
)
from tasks.contracts.catalogues import Material
from tasks.contracts.json_types import Json, parse_object, pretty_json
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.models.interactions import Interactions
from tasks.models.pictures import Pictures
from tasks.models.profile_definition import PROFILE_DEFINITION_FILE, ProfileDefinition
from tasks.models.registry import load_model
from tasks.models.user_profile import UserProfile

READS: Mapping[str, ArtifactKind] = MappingProxyType(
    {"model": ArtifactKind.TRAINED_MODEL, "features": ArtifactKind.FEATURE_SET}
)
GATED: frozenset[str] = frozenset({"model", "features"})
PRODUCES = ArtifactKind.COMPRESSED_MODEL

REQUESTS = 500
TOP = 20
COMPARED = 10


@dataclass(frozen=True, kw_only=True)
class _Compressed:
    """One model in both forms with its answers to the golden requests."""

    export: Export
    original: Export
    answers: Answers
    original_answers: Answers
    real: NDArray[np.bool_]  # [R] requests that a user made
    small: CompressedModel

    def record(self) -> dict[str, Json]:
        """Return bytes of the weights and how much the answers moved."""
        ours = self.answers.items[self.real, :COMPARED]
        theirs = self.original_answers.items[self.real, :COMPARED]
        shared = overlap(ours, theirs)
        fp32, now = _weight_bytes(self.original), _weight_bytes(self.export)
        return {
            "weights_bytes_fp32": fp32,
            "weights_bytes": now,
            "weights_ratio": round(now / max(fp32, 1), 6),
            "top10_overlap": round(float(shared.mean()), 6),
            "top10_same_set": round(float((shared == 1).mean()), 6),
            "top1_same": round(float((ours[:, 0] == theirs[:, 0]).mean()), 6),
        }


def configure(context: StageContext) -> dict[str, Json]:
    """Return the recipe and what the golden requests depend on."""
    release = context.the_release()
    return {
        "compression": release.compression,
        "requests": REQUESTS,
        "top": TOP,
        "seed": release.seed,
    }


def run(context: StageContext) -> Outcome:
    """Compress model and baselines, export both forms, answer the golden requests."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if context.the_release().material is Material.PICTURES:
        return _compress_classifier(context)
    recipe = context.the_release().compression
    trained, features = context.inputs["model"].path, context.inputs["features"].path
    report = parse_object((trained / "report.json").read_bytes(), "report.json")
    max_length, exclude = int(cast("int", report["max_length"])), bool(report["exclude_seen"])
    interactions = Interactions.load(features / "interactions.npz")
    arrays = request_arrays(interactions, REQUESTS, max_length, context.the_release().seed)
    requests = Requests(**arrays)  # type: ignore[arg-type]
    found: dict[str, _Compressed] = {}
    models = _models(trained)
    for place, (name, folder, model) in enumerate(models):
        context.progress(f"compressing {name}", place / len(models))
        found[name] = _compressed(model, recipe, requests, exclude=exclude)
        found[name].export.save(context.out / folder)
        _write(context.out / folder / "fp32.graph.json", found[name].original.graph.to_text())
    answers = {name: item.answers for name, item in found.items()}
    typed = None
    if found["model"].small.takes_event_types:
        types = request_types(interactions, REQUESTS, max_length, context.the_release().seed)
        typed = _typed(found["model"].small, requests, types, exclude=exclude)
    Golden(requests=requests, answers=answers, typed=typed).save(context.out / GOLDEN_FILE)
    shutil.copyfile(features / "items.parquet", context.out / "items.parquet")
    _write_profile(context, interactions, max_length)
    records = {name: item.record() for name, item in found.items()}
    record: dict[str, Json] = {
        "format": "compression/1",
        "recipe": recipe,
        "max_length": max_length,
        "exclude_seen": exclude,
        "k": TOP,
        "num_items": interactions.num_items,
        "golden_requests": int(requests.real.sum()),
        "models": cast("Json", records),
        "baselines_left_out": report.get("baselines_left_out", {}),
        **records["model"],
    }
    _write(context.out / "compression.json", pretty_json(record))
    return Outcome(
        sentence=f"{recipe}: weights {records['model']['weights_bytes']} bytes of "
        f"{records['model']['weights_bytes_fp32']}, top-10 overlap "
        f"{records['model']['top10_overlap']}"
    )


def _write_profile(context: StageContext, interactions: Interactions, max_length: int) -> None:
    """Write graph, weights and definition of users' profiles, and torch's golden answers."""
    out, features = context.out / PROFILE_FOLDER, context.inputs["features"].path
    definition = ProfileDefinition.load(features / PROFILE_DEFINITION_FILE)
    model = UserProfile(definition).eval()
    export_module(model, shown_inputs(definition), model.names).save(out)
    definition.save(out / PROFILE_DEFINITION_FILE)
    requests = golden_profile_requests(
        interactions, wanted=REQUESTS, max_length=max_length, seed=context.the_release().seed
    )
    answers = profile_answers(model, definition, requests)
    GoldenProfiles(requests=requests, answers=answers).save(out / GOLDEN_PROFILES_FILE)


def _compress_classifier(context: StageContext) -> Outcome:
    release, trained = context.the_release(), context.inputs["model"].path
    report = parse_object((trained / "report.json").read_bytes(), "report.json")
    pictures = Pictures.load(context.inputs["features"].path)
    requests = PictureRequests(**picture_arrays(pictures, REQUESTS, release.seed))
    answers: dict[str, Answers] = {}
    records: dict[str, dict[str, Json]] = {}
    for place, (name, folder, source) in enumerate(_classifiers(trained)):
        context.progress(f"compressing {name}", place / 3)
        target = context.out / folder
        if is_keras(source, name):
            made = _kept_keras(source, name, release.compression, requests, target)
        else:
            made = _compressed_classifier(source, name, release.compression, requests, target)
        answers[name], records[name] = made
    GoldenPictures(requests=requests, answers=answers).save(context.out)
    record: dict[str, Json] = {
        "format": "classifier_compression/1",
        "recipe": release.compression,
        "class_names": report["class_names"],
        "side": report["side"],
        "golden_requests": int(requests.real.sum()),
        "models": cast("Json", records),
    }
    _write(context.out / "compression.json", pretty_json(record))
    model = records["model"]
    return Outcome(
        sentence=f"{release.compression}: weights {model['weights_bytes']} bytes of "
        f"{model['weights_bytes_fp32']}, the same class for {model['same_class']} of the pictures"
    )


def _classifiers(trained: Path) -> list[tuple[str, str, Path]]:
    """Return (name, folder in the artifact, folder of its files) of model and baselines."""
    names = sorted(path.stem for path in (trained / "baselines").glob("*.json"))
    baselines = [(name, f"baselines/{name}", trained / "baselines") for name in names]
    return [("model", "model", trained), *baselines]


def _compressed_classifier(
    source: Path, name: str, recipe: str, requests: PictureRequests, target: Path
) -> tuple[Answers, dict[str, Json]]:
    model = load_model(source, name)
    small, plain = CompressedClassifier(model, recipe), CompressedClassifier(model, "none")
    side = requests.images.shape[1]
    shape = {"images": torch.zeros((3, side, side))}
    export, original = (export_module(one, shape, ("logits",)) for one in (small, plain))
    export.save(target)
    _write(target / "fp32.graph.json", original.graph.to_text())
    ours, theirs = (_classified(one, requests) for one in (small.eval(), plain.eval()))
    sizes = _weight_bytes(original), _weight_bytes(export)
    return ours, _moved(ours, theirs, requests.real, sizes)


def _kept_keras(
    source: Path, name: str, recipe: str, requests: PictureRequests, target: Path
) -> tuple[Answers, dict[str, Json]]:
    model = KerasClassifier(source, name, recipe)
    answers = _classified(model, requests)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / f"{name}.json", target / "keras.json")
    shutil.copyfile(source / f"{name}.safetensors", target / "weights.safetensors")
    size = sum(array.nbytes for array in model.weights.values())
    return answers, _moved(answers, answers, requests.real, (size, size))


def _classified(
    model: CompressedClassifier | KerasClassifier, requests: PictureRequests
) -> Answers:
    items, scores = classified(model, requests.shown())
    return Answers(items=items, scores=scores)


def _moved(
    ours: Answers, theirs: Answers, real: NDArray[np.bool_], sizes: tuple[int, int]
) -> dict[str, Json]:
    """Return bytes of the weights before and after, and how far the answers moved."""
    fp32, now = sizes
    same = ours.items[real, 0] == theirs.items[real, 0]
    away = np.abs(by_class(ours.items, ours.scores) - by_class(theirs.items, theirs.scores))[real]
    return {
        "weights_bytes_fp32": fp32,
        "weights_bytes": now,
        "weights_ratio": round(now / max(fp32, 1), 6),
        "same_class": round(float(same.mean()), 6),
        "worst_score_move": round(float(away.max(initial=0.0)), 6),
    }


def _models(trained: Path) -> list[tuple[str, str, nn.Module]]:
    """Return (name, folder in the artifact, model) of the model, then of every baseline."""
    baselines = sorted(path.stem for path in (trained / "baselines").glob("*.json"))
    return [
        ("model", "model", load_model(trained)),
        *[
            (name, f"baselines/{name}", load_model(trained / "baselines", name))
            for name in baselines
        ],
    ]


def _compressed(model: nn.Module, recipe: str, requests: Requests, *, exclude: bool) -> _Compressed:
    small, original = compress(model, recipe), compress(model, "none")
    return _Compressed(
        export=_exported(small),
        original=_exported(original),
        answers=_answers(small, requests, exclude=exclude),
        original_answers=_answers(original, requests, exclude=exclude),
        real=requests.real,
        small=small,
    )


def _exported(model: CompressedModel) -> Export:
    items = torch.ones((3, 7), dtype=torch.int64)
    ago = torch.arange(7, 0, -1).expand(3, 7).contiguous()
    shown = zip(model.inputs, (items, ago, items.clone()), strict=False)
    return export_module(model, dict(shown), model.names)


def _answers(model: CompressedModel, requests: Requests, *, exclude: bool) -> Answers:
    items, scores = answer(model, requests.items, requests.steps_ago, k=TOP, exclude=exclude)
    return Answers(items=items, scores=scores)


def _typed(
    model: CompressedModel, requests: Requests, types: NDArray[np.int64], *, exclude: bool
) -> TypedAnswers:
    """Return what the model answers to who also sends the types of the events."""
    given = requests.items, requests.steps_ago, types
    items, scores = answer(model, *given, k=TOP, exclude=exclude)
    return TypedAnswers(
        event_types=types,
        ranked=Answers(items=items, scores=scores),
        next_types=next_type_answer(model, *given),
    )


def _weight_bytes(export: Export) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in export.weights.values())


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
