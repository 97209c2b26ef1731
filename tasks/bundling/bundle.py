"""A serving bundle from a compressed model: SavedModels, warm-up, certificate, golden answers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.bundling.aten_graph import AtenGraph, read_graph
from tasks.bundling.golden import GOLDEN_FILE, Answers, Golden, TypedAnswers
from tasks.bundling.golden_profiles import GOLDEN_PROFILES_FILE, PROFILE_FOLDER, GoldenProfiles
from tasks.bundling.parity import COMPARED, TIE, ServedInputs, certify, certify_typed, served_inputs
from tasks.bundling.profile_parity import certify_profiles
from tasks.bundling.profile_signature import ServedProfile, read_profile
from tasks.bundling.served_model import LoadedModel
from tasks.bundling.signatures import ServedModel, write_served_model
from tasks.bundling.warmup import write_warmup
from tasks.contracts.columns import EVENT_TYPES
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, canonical_json, parse_object, pretty_json
from tasks.contracts.served_signatures import NEXT_EVENT
from tasks.contracts.stage_io import SayProgress

MODEL = "model"
TYPED = NEXT_EVENT  # in records: what concerns requests with types
WARMUP_BATCHES = (1, 8, 64)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A compressed model's folder with what all its models share."""

    folder: Path
    item_ids: tuple[str, ...]
    k: int
    max_length: int
    exclude_seen: bool
    golden: Golden
    profile: ServedProfile
    baselines_left_out: Json  # name -> why

    @property
    def names(self) -> tuple[str, ...]:
        """Return `model`, then the baselines."""
        return (MODEL, *sorted(set(self.golden.answers) - {MODEL}))

    def served(self, name: str) -> ServedModel:
        """Return one model, ready to be written."""
        graph, weights = read_graph(self.folder / place_of(name))
        return ServedModel(
            graph=graph,
            weights=weights,
            item_ids=self.item_ids,
            k=min(self.k, len(self.item_ids)),
            max_length=self.max_length,
            exclude_seen=self.exclude_seen,
            profile=self.profile if name == MODEL else None,
        )


def place_of(name: str) -> str:
    """Return the folder of a model within a compressed model or a bundle."""
    return MODEL if name == MODEL else f"baselines/{name}"


def read_source(folder: Path) -> Source:
    """Read the payload of a compressed model."""
    record = parse_object((folder / "compression.json").read_bytes(), "compression.json")
    items = pq.read_table(folder / "items.parquet", columns=["item_index", "item_id"])
    order = np.argsort(items["item_index"].to_numpy())
    ids = items["item_id"].to_pylist()
    return Source(
        folder=folder,
        item_ids=tuple(str(ids[place]) for place in order),
        k=int(cast("int", record["k"])),
        max_length=int(cast("int", record["max_length"])),
        exclude_seen=bool(record["exclude_seen"]),
        golden=Golden.load(folder / GOLDEN_FILE),
        profile=read_profile(folder / PROFILE_FOLDER),
        baselines_left_out=record.get("baselines_left_out", {}),
    )


def write_bundle(source: Source, out: Path, progress: SayProgress) -> dict[str, Json]:
    """Write the whole bundle; return the certificate."""
    certificates: dict[str, Json] = {}
    sizes: dict[str, Json] = {}
    signatures: dict[str, Json] = {}
    for place, name in enumerate(source.names):
        progress(f"bundling {name}", place / len(source.names))
        folder = out / place_of(name)
        served = source.served(name)
        write_served_model(folder, served)
        sizes[name] = _sizes(source, served, name, folder)
        with LoadedModel(folder) as model:
            requests, answers = source.golden.requests, source.golden.answers[name]
            certificates[name] = certify(model, requests, source.item_ids, answers)
            signatures[name] = cast("Json", model.describe())
            if served.profile is not None:
                certificates["profile"] = _certify_profiles(source, served.profile, model)
            if served.takes_event_types:
                typed = _typed_answers(source, name)
                certificates[TYPED] = certify_typed(model, requests, source.item_ids, typed)
        write_warmup(folder, list(_warmup(source, served)))
    certificate: dict[str, Json] = {
        "format": "parity_certificate/1",
        "compared_places": COMPARED,
        "tie_tolerance": TIE,
        **cast("dict[str, Json]", certificates[MODEL]),
        "baselines": {name: certificates[name] for name in source.names if name != MODEL},
        "profile": certificates["profile"],
        **_of_typed(certificates.get(TYPED)),
    }
    _write(out / "parity.json", pretty_json(certificate))
    _write(out / "bundle.json", pretty_json(_bundle_record(source, sizes, signatures)))
    _write(out / "golden.jsonl", "".join(_golden_lines(source)))
    return certificate


def _bundle_record(
    source: Source, sizes: Mapping[str, Json], signatures: Mapping[str, Json]
) -> dict[str, Json]:
    return {
        "format": "serving_bundle/1",
        "k": source.k,
        "max_length": source.max_length,
        "exclude_seen": source.exclude_seen,
        "num_items": len(source.item_ids),
        **cast("dict[str, Json]", sizes[MODEL]),
        "signatures": signatures[MODEL],
        "baselines": {name: sizes[name] for name in source.names if name != MODEL},
        "baselines_left_out": source.baselines_left_out,
        "profile": source.profile.record(),
        **_of_typed(None if source.golden.typed is None else {"event_types": list(EVENT_TYPES)}),
    }


def _of_typed(record: Json) -> dict[str, Json]:
    """Return a record of what is there only where the model takes the types of events."""
    return {} if record is None else {TYPED: record}


def _typed_answers(source: Source, name: str) -> TypedAnswers:
    found = source.golden.typed
    if found is None or name != MODEL:
        message = f"{name}: expected golden answers with event types in {GOLDEN_FILE}, found none"
        raise BadRequestError(message)
    return found


def _sizes(source: Source, served: ServedModel, name: str, folder: Path) -> dict[str, Json]:
    """Return bytes on disk, the profile's share of them, and of the same model with its fp32 weights.

    The fp32 SavedModel is really written, with zeros for weights: its bytes depend on shapes only. It and the
    ratio leave the profile out, which no compression makes smaller.
    """
    path = source.folder / place_of(name) / "fp32.graph.json"
    graph = AtenGraph.parse(path.read_bytes(), path.name)
    weights = {
        key: np.zeros(cast("tuple[int, ...]", kind.shape), kind.dtype)
        for key, kind in graph.weights.items()
    }
    found, network = saved_model_bytes(folder), replace(served, profile=None)
    alone = found if served.profile is None else _written_bytes(network)
    fp32 = _written_bytes(replace(network, graph=graph, weights=weights))
    return {
        "bytes": found,
        "profile_bytes": found - alone,
        "fp32_bytes": fp32,
        "ratio": round(alone / fp32, 6),
    }


def _written_bytes(served: ServedModel) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        write_served_model(Path(scratch), served)
        return saved_model_bytes(Path(scratch))


def saved_model_bytes(folder: Path) -> int:
    """Return the bytes of `saved_model.pb` and `variables/`."""
    files = [folder / "saved_model.pb", *(folder / "variables").glob("*")]
    return sum(path.stat().st_size for path in files)


def _certify_profiles(source: Source, profile: ServedProfile, model: LoadedModel) -> Json:
    golden = GoldenProfiles.load(source.folder / PROFILE_FOLDER / GOLDEN_PROFILES_FILE)
    return certify_profiles(model, profile.definition, golden, source.item_ids)


def _warmup(source: Source, served: ServedModel) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield requests of real users in the batch sizes that the server sees most."""
    inputs = served_inputs(source.golden.requests, source.item_ids)
    rows = np.flatnonzero(source.golden.requests.real)
    for size in WARMUP_BATCHES:
        if len(rows) >= size:
            yield "serving_default", inputs.batch(slice(0, size))
    yield "serving_default", inputs.one(0)
    yield "recommend", inputs.one(0) | _choices(source)
    if served.takes_event_types:
        yield NEXT_EVENT, _typed_inputs(source, _typed_answers(source, MODEL)).one(0)
    if served.profile is not None:
        yield "profile", inputs.one(0)


def _typed_inputs(source: Source, typed: TypedAnswers) -> ServedInputs:
    return served_inputs(source.golden.requests, source.item_ids, typed.event_types)


def _choices(source: Source) -> dict[str, Any]:
    return {"k": np.int32(source.k), "exclude_seen": np.bool_(source.exclude_seen)}


def _golden_lines(source: Source) -> Iterator[str]:
    """Yield one JSON line per real golden request: served inputs and torch's answers.

    Where the model takes types, each request comes once more with them, after all without.
    """
    answers, typed = source.golden.answers[MODEL], source.golden.typed
    inputs = served_inputs(source.golden.requests, source.item_ids)
    yield from _lines(source, inputs, answers)
    if typed is not None:
        with_types = _typed_inputs(source, typed)
        yield from _lines(source, with_types, typed.ranked, typed.next_types)


def _lines(
    source: Source,
    inputs: ServedInputs,
    answers: Answers,
    next_types: NDArray[np.float32] | None = None,
) -> Iterator[str]:
    requests, names = source.golden.requests, ("", *source.item_ids)
    for row in np.flatnonzero(requests.real):
        asked = inputs.one(int(row))
        record = {
            "user": str(requests.user[row]),
            **{name: rows[0].tolist() for name, rows in asked.items()},
            "items": [names[item] for item in answers.items[row]],
            "scores": [float(score) for score in answers.scores[row]],
        }
        if next_types is not None:
            record["next_types"] = [float(chance) for chance in next_types[row]]
        yield canonical_json(record) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
