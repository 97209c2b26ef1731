"""A serving bundle of a classifier of pictures: SavedModels, warm-up, certificate, golden answers.

The one signature, `serving_default`: `images` uint8 [B, side, side], 0 black to 255 white, ->
`classes` string [B, C], best first, and `scores` float32 [B, C], their probabilities.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tasks.bundling.aten_graph import Array, AtenGraph, read_graph
from tasks.bundling.bundle import MODEL, WARMUP_BATCHES, place_of, saved_model_bytes
from tasks.bundling.golden import Answers
from tasks.bundling.golden_pictures import GoldenPictures
from tasks.bundling.parity import BATCH, COMPARED, TIE, Agreement, compare, together
from tasks.bundling.saved_model import GraphWriter, Signature, identity_of
from tasks.bundling.served_model import LoadedModel
from tasks.bundling.signatures import network_outputs
from tasks.bundling.warmup import write_warmup
from tasks.contracts.json_types import Json, canonical_json, parse_object, pretty_json
from tasks.contracts.stage_io import SayProgress
from tasks.models.keras import use_backend
from tasks.models.keras.two_convolutions import two_convolutions

KERAS_FILE = "keras.json"


@dataclass(frozen=True, kw_only=True)
class ClassifierSource:
    """A compressed classifier's folder with what all its models share."""

    folder: Path
    recipe: str
    class_names: tuple[str, ...]
    side: int
    golden: GoldenPictures

    @property
    def names(self) -> tuple[str, ...]:
        """Return `model`, then the baselines."""
        return (MODEL, *sorted(set(self.golden.answers) - {MODEL}))


def read_classifier(folder: Path) -> ClassifierSource:
    """Read the payload of a compressed classifier."""
    record = parse_object((folder / "compression.json").read_bytes(), "compression.json")
    return ClassifierSource(
        folder=folder,
        recipe=str(record["recipe"]),
        class_names=tuple(str(name) for name in cast("list[str]", record["class_names"])),
        side=int(cast("int", record["side"])),
        golden=GoldenPictures.load(folder),
    )


def write_classifier_bundle(
    source: ClassifierSource, out: Path, progress: SayProgress
) -> dict[str, Json]:
    """Write the whole bundle; return the certificate."""
    certificates: dict[str, Json] = {}
    sizes: dict[str, Json] = {}
    signatures: dict[str, Json] = {}
    for place, name in enumerate(source.names):
        progress(f"bundling {name}", place / len(source.names))
        folder = out / place_of(name)
        _write_model(source, source.folder / place_of(name), folder)
        sizes[name] = _sizes(source, name, folder)
        with LoadedModel(folder) as model:
            certificates[name] = _certify(model, source, name)
            signatures[name] = cast("Json", model.describe())
        write_warmup(folder, list(_warmup(source)))
    certificate: dict[str, Json] = {
        "format": "parity_certificate/1",
        "compared_places": COMPARED,
        "tie_tolerance": TIE,
        **cast("dict[str, Json]", certificates[MODEL]),
        "baselines": {name: certificates[name] for name in source.names if name != MODEL},
    }
    record: dict[str, Json] = {
        "format": "classifier_bundle/1",
        "class_names": list(source.class_names),
        "side": source.side,
        "compression": source.recipe,
        **cast("dict[str, Json]", sizes[MODEL]),
        "signatures": signatures[MODEL],
        "baselines": {name: sizes[name] for name in source.names if name != MODEL},
    }
    (out / "parity.json").write_text(pretty_json(certificate), encoding="utf-8")
    (out / "bundle.json").write_text(pretty_json(record), encoding="utf-8")
    (out / "golden.jsonl").write_text("".join(_golden_lines(source)), encoding="utf-8")
    return certificate


def _write_model(source: ClassifierSource, found: Path, folder: Path) -> None:
    if (found / KERAS_FILE).is_file():
        _write_keras(source, found, folder)
        return
    graph, weights = read_graph(found)
    _write_torch(source, graph, weights, folder)


def _write_torch(
    source: ClassifierSource, graph: AtenGraph, weights: Mapping[str, Array], folder: Path
) -> None:
    text = f"{graph.to_text()}\0" + "\0".join(source.class_names)
    writer = GraphWriter(identity=identity_of(weights, text))
    with writer.graph.as_default():
        images = _images(source)
        logits = network_outputs(writer, graph, weights, {"images": _shown(images)})["logits"]
        signature = _signature(source, images, logits)
    writer.save(folder, {"serving_default": signature})


def _write_keras(source: ClassifierSource, found: Path, folder: Path) -> None:
    """Let Keras itself write its operators into the graph; only the signature is ours."""
    use_backend("tensorflow")
    record = parse_object((found / KERAS_FILE).read_bytes(), KERAS_FILE)
    model = two_convolutions(**cast("dict[str, Any]", record["arguments"]))
    weights: dict[str, Array] = load_file(found / "weights.safetensors")
    text = f"{record['architecture']}\0" + "\0".join(source.class_names)
    writer = GraphWriter(identity=identity_of(weights, text))
    with writer.graph.as_default():
        images = _images(source)
        stored = [writer.stored(name, weights[name]) for name in sorted(weights)]
        logits, _ = model.stateless_call(stored, [], _shown(images), training=False)
        signature = _signature(source, images, logits)
    writer.save(folder, {"serving_default": signature})


def _images(source: ClassifierSource) -> Any:
    shape = [None, source.side, source.side]
    return tf.compat.v1.placeholder(tf.uint8, shape, name="images")


def _shown(images: Any) -> Any:
    return tf.cast(images, tf.float32) / tf.constant(255.0)


def _signature(source: ClassifierSource, images: Any, logits: Any) -> Signature:
    names = tf.constant(list(source.class_names), name="class_names")
    best = tf.math.top_k(tf.nn.softmax(logits), len(source.class_names))
    outputs = {"classes": tf.gather(names, best.indices), "scores": best.values}
    return Signature(inputs={"images": images}, outputs=outputs)


def _sizes(source: ClassifierSource, name: str, folder: Path) -> dict[str, Json]:
    """Return bytes on disk, and of the same model written with its fp32 weights."""
    found = saved_model_bytes(folder)
    path = source.folder / place_of(name) / "fp32.graph.json"
    if not path.is_file():  # a Keras model is written with the weights that it has
        return {"bytes": found, "fp32_bytes": found, "ratio": 1.0}
    graph = AtenGraph.parse(path.read_bytes(), path.name)
    weights = {
        key: np.zeros(cast("tuple[int, ...]", kind.shape), kind.dtype)
        for key, kind in graph.weights.items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        _write_torch(source, graph, weights, Path(scratch))
        fp32 = saved_model_bytes(Path(scratch))
    return {"bytes": found, "fp32_bytes": fp32, "ratio": round(found / fp32, 6)}


def _certify(model: LoadedModel, source: ClassifierSource, name: str) -> dict[str, Json]:
    """Ask every golden picture alone and in batches; return the numbers, whole and per class."""
    requests, wanted = source.golden.requests, source.golden.answers[name]
    alone = compare(_asked(model, source, 1), wanted)
    batched = compare(_asked(model, source, BATCH), wanted)
    both = together(alone, batched)
    return {
        **both.record(requests.real),
        "one_by_one": alone.record(requests.real),
        "in_batches": batched.record(requests.real),
        "made_up": both.record(~requests.real),
        "slices": cast("Json", _by_class(both, source)),
    }


def _by_class(both: Agreement, source: ClassifierSource) -> dict[str, Json]:
    target = source.golden.requests.target
    there = [name for name in source.class_names if (target == name).any()]
    return {name: cast("Json", both.record(target == name)) for name in there}


def _asked(model: LoadedModel, source: ClassifierSource, batch: int) -> Answers:
    images = source.golden.requests.images
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    found = [ask(model, part, source.class_names) for part in parts]
    return Answers(
        items=np.concatenate([items for items, _ in found]),
        scores=np.concatenate([scores for _, scores in found]),
    )


def ask(
    model: LoadedModel, images: NDArray[np.uint8], class_names: tuple[str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the classes [B, C] that a SavedModel answers, as indices, and their scores."""
    answer = model.ask("serving_default", {"images": images})
    place = {name.encode(): index for index, name in enumerate(class_names)}
    items = np.asarray([place[name] for name in answer["classes"].ravel()], np.int64)
    return items.reshape(answer["classes"].shape), answer["scores"].astype(np.float32)


def _warmup(source: ClassifierSource) -> Iterator[tuple[str, Mapping[str, Any]]]:
    images = source.golden.requests.images
    for size in WARMUP_BATCHES:
        if len(images) >= size:
            yield "serving_default", {"images": images[:size]}


def _golden_lines(source: ClassifierSource) -> Iterator[str]:
    """Yield one JSON line per picture of the set: what a client sends and the model's answer."""
    requests, answers = source.golden.requests, source.golden.answers[MODEL]
    for row in np.flatnonzero(requests.real):
        record: dict[str, Json] = {
            "user": str(requests.picture[row]),
            "images": requests.images[row].tolist(),
            "items": [source.class_names[item] for item in answers.items[row]],
            "scores": [float(score) for score in answers.scores[row]],
        }
        yield canonical_json(record) + "\n"
