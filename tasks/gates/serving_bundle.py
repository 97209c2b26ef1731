"""Gate after bundling: the signatures that clients rely on, and torch's own answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

from tasks.contracts.errors import BadRequestError
from tasks.contracts.gate_reports import Figure, Series
from tasks.contracts.json_types import Json
from tasks.contracts.served_signatures import NEXT_EVENT
from tasks.gates import user_profiles
from tasks.gates.bounds import BundleBounds
from tasks.gates.checks import Measurement, Payload, Suite, joined, measured
from tasks.gates.model_measurements import bytes_on_disk, none_of
from tasks.gates.records import number, read_record
from tasks.gates.saved_model_signatures import Signature, Tensor, read_signatures
from tasks.gates.wording import in_words

MODEL = "model"
MAX_PROFILE_BYTES, MAX_PROFILE_BYTES_PER_ITEM = 1_000_000, 6  # graph and labels; three int16 codes
WARMUP = "assets.extra/tf_serving_warmup_requests"
ANY = -1


def _tensor(dtype: str, *shape: int) -> Tensor:
    return Tensor(dtype=dtype, shape=shape)


_HISTORY: Mapping[str, Tensor] = MappingProxyType(
    {"history": _tensor("string", ANY, ANY), "steps_ago": _tensor("int64", ANY, ANY)}
)
_ANSWER: Mapping[str, Tensor] = MappingProxyType(
    {"items": _tensor("string", ANY, ANY), "scores": _tensor("float32", ANY, ANY)}
)
# What clients call, and `profile` of the model. `embed` is there where it has an embedding of the user.
EXPECTED: Mapping[str, Signature] = MappingProxyType(
    {
        "serving_default": Signature(
            inputs=_HISTORY, outputs=_ANSWER, optional=frozenset({"steps_ago"})
        ),
        "recommend": Signature(
            inputs={**_HISTORY, "k": _tensor("int32"), "exclude_seen": _tensor("bool")},
            outputs=_ANSWER,
            optional=frozenset({"steps_ago", "k", "exclude_seen"}),
        ),
        "score": Signature(
            inputs={**_HISTORY, "candidates": _tensor("string", ANY, ANY)},
            outputs={"scores": _tensor("float32", ANY, ANY)},
            optional=frozenset({"steps_ago"}),
        ),
        "embed": Signature(
            inputs=_HISTORY,
            outputs={"embedding": _tensor("float32", ANY, ANY)},
            optional=frozenset({"steps_ago"}),
        ),
    }
)
OPTIONAL = frozenset({"embed"})
# Of a model that reads types, which its bundle says.
_NEXT_EVENT = Signature(
    inputs={**_HISTORY, "event_types": _tensor("string", ANY, ANY)},
    outputs={**_ANSWER, "next_types": _tensor("float32", ANY, ANY)},
    optional=frozenset({"steps_ago", "event_types"}),
)
MAX_TYPE_DIFFERENCE = 1e-5  # of a chance of the next event's type


def suite(payload: Payload, wanted: BundleBounds) -> Suite:
    """Return what is expected of files, signatures, certificate and golden answers."""
    bundle = read_record(payload.path / "bundle.json", "serving_bundle")
    certificate = read_record(payload.path / "parity.json", "parity_certificate")
    baselines = sorted(cast("dict[str, Json]", bundle["baselines"]))
    parity = _parity(certificate, wanted) + _typed(bundle, certificate, wanted)
    return joined(
        Suite(batches=(measured("parity", parity),)),
        Suite(batches=(measured("signatures", _signatures(payload.path, bundle, baselines)),)),
        Suite(batches=(measured("files", _files(payload.path, bundle, baselines, wanted)),)),
        Suite(
            batches=(
                measured(
                    "profiles",
                    user_profiles.of_certificate(certificate, wanted.min_golden_requests),
                ),
            )
        ),
        Suite(batches=(measured("golden answers", _golden(payload.path, bundle, wanted)),)),
        _shown(bundle, certificate),
    )


def _parity(certificate: dict[str, Json], wanted: BundleBounds) -> list[Measurement]:
    slices = cast("dict[str, dict[str, Json]]", certificate.get("slices") or {})
    baselines = cast("dict[str, dict[str, Json]]", certificate.get("baselines") or {})
    found = [_agreement("torch's top 10", certificate, wanted)]
    found += [_agreement(f"torch's top 10, {name}", r, wanted) for name, r in slices.items()]
    found += [_agreement(f"torch's top 10 of {name}", r, wanted) for name, r in baselines.items()]
    made_up = certificate.get("made_up")
    if isinstance(made_up, dict) and number(made_up, "requests"):
        found.append(_agreement("torch's top 10, made-up requests", made_up, wanted))
    found.append(
        Measurement(
            name="worst score difference",
            value=number(certificate, "worst_score_difference"),
            maximum=wanted.max_score_difference,
            why="TensorFlow computes another number than torch: an operator was lowered wrongly.",
        )
    )
    return found


def _typed(
    bundle: dict[str, Json], certificate: dict[str, Json], wanted: BundleBounds
) -> list[Measurement]:
    """Return what is expected of answers to requests with event types, where the model reads them."""
    if NEXT_EVENT not in bundle:
        return []
    record = cast("dict[str, Json]", certificate.get(NEXT_EVENT) or {})
    return [
        _agreement("torch's top 10, with event types", record, wanted),
        Measurement(
            name="golden requests with event types",
            value=number(record, "requests"),
            minimum=wanted.min_golden_requests,
            unit="count",
        ),
        Measurement(
            name="worst difference of a next type's chance",
            value=number(record, "worst_next_type_difference"),
            maximum=MAX_TYPE_DIFFERENCE,
            why="TensorFlow computes another number than torch: an operator was lowered wrongly.",
        ),
    ]


def _agreement(name: str, record: dict[str, Json], wanted: BundleBounds) -> Measurement:
    requests, agreeing = number(record, "requests"), number(record, "agreeing")
    # One user of a small slice may differ, as one of 500 may.
    allowed = max(1.0, (requests or 0) * (1 - wanted.min_agreement))
    return Measurement(
        name=name,
        value=None if requests is None or agreeing is None else requests - agreeing,
        maximum=allowed,
        unit="count",
        expected=f"at most {allowed:g} of {requests or 0:,.0f} requests answered differently",
        why="What is served is not what was trained and evaluated.",
    )


def _signatures(folder: Path, bundle: dict[str, Json], baselines: list[str]) -> list[Measurement]:
    found = []
    of_model = {**EXPECTED, "profile": user_profiles.signature(_HISTORY, bundle)}
    if NEXT_EVENT in bundle:
        of_model[NEXT_EVENT] = _NEXT_EVENT
    for name in (MODEL, *baselines):
        wanted = of_model if name == MODEL else EXPECTED
        path = folder / (MODEL if name == MODEL else f"baselines/{name}") / "saved_model.pb"
        present = read_signatures(path) if path.is_file() else {}
        found += [
            Measurement(
                name=f"signature {entry} of {name}",
                value=_in_words(present.get(entry)),
                equals=_in_words(expected),
                why="Clients call this signature by these names and types.",
            )
            for entry, expected in wanted.items()
            if entry in present or entry not in OPTIONAL
        ]
        unknown = sorted(set(present) - set(wanted))
        found.append(
            Measurement(
                name=f"other signatures of {name}",
                value=len(unknown),
                maximum=0,
                unit="count",
                expected="none",
                where=f"({', '.join(unknown)})" if unknown else "",
            )
        )
    return found


def _in_words(signature: Signature | None) -> str | None:
    """Return `history string[?, ?], ... -> items string[?, ?], ...`; sizes may be narrower."""
    if signature is None:
        return None

    def listed(tensors: Mapping[str, Tensor]) -> str:
        shown = {name: _ranks(tensor) for name, tensor in tensors.items()}
        return ", ".join(
            f"{name}{'?' if name in signature.optional else ''} {shown[name]}"
            for name in sorted(shown)
        )

    return f"{listed(signature.inputs)} -> {listed(signature.outputs)}"


def _ranks(tensor: Tensor) -> str:
    """Return type and number of dimensions: a fixed size, such as k, is as good as any."""
    if tensor.shape is None:
        return f"{tensor.dtype} of any rank"
    return f"{tensor.dtype}[{', '.join('?' for _ in tensor.shape)}]"


def _files(
    folder: Path, bundle: dict[str, Json], baselines: list[str], wanted: BundleBounds
) -> list[Measurement]:
    places = {MODEL: folder / MODEL, **{b: folder / "baselines" / b for b in baselines}}
    without = [name for name, place in places.items() if not (place / WARMUP).is_file()]
    random = [name for name, place in places.items() if (place / "fingerprint.pb").exists()]
    return [
        none_of(
            "models without warm-up requests",
            len(without),
            "none: a cold model answers late",
            where=_listed(without),
        ),
        none_of(
            "files that differ in each run",
            len(random),
            "no fingerprint.pb",
            where=_listed(random),
        ),
        Measurement(
            name="bytes of profiles",
            value=number(bundle, "profile_bytes"),
            maximum=MAX_PROFILE_BYTES
            + MAX_PROFILE_BYTES_PER_ITEM * (number(bundle, "num_items") or 0),
            unit="bytes",
            why="They are left out of what compression is judged by.",
        ),
        *bytes_on_disk(folder / MODEL, bundle, wanted),
    ]


def _listed(names: list[str]) -> str:
    return f"({', '.join(names)})" if names else ""


def _golden(folder: Path, bundle: dict[str, Json], wanted: BundleBounds) -> list[Measurement]:
    path = folder / "golden.jsonl"
    if not path.is_file():
        message = "golden.jsonl: expected golden requests in the payload, found none"
        raise BadRequestError(message)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    k = number(bundle, "k") or 0
    odd = sum(
        len(line["items"]) != k or len(line["items"]) != len(line["scores"]) for line in lines
    )
    unequal = sum(len(line["history"]) != len(line["steps_ago"]) for line in lines)
    typed = [line for line in lines if "event_types" in line]
    untyped = sum(len(line["history"]) != len(line["event_types"]) for line in typed)
    return [
        Measurement(
            name="golden requests",
            value=len(lines),
            minimum=wanted.min_golden_requests,
            unit="count",
            why="The slot is checked with them before any user sees it.",
        ),
        Measurement(
            name="golden answers of another length",
            value=odd,
            maximum=0,
            unit="count",
            expected=f"{k:g} items with a score each",
        ),
        Measurement(
            name="golden histories without steps",
            value=unequal,
            maximum=0,
            unit="count",
            expected="as many steps as items",
        ),
        none_of(
            "golden histories without types",
            untyped,
            "as many types as items, where types are sent",
        ),
    ]


def _shown(bundle: dict[str, Json], certificate: dict[str, Json]) -> Suite:
    slices = cast("dict[str, dict[str, Json]]", certificate.get("slices") or {})
    shares = {
        name: (number(record, "agreeing") or 0) / max(number(record, "requests") or 0, 1)
        for name, record in {"all users": certificate, **slices}.items()
    }
    figure = Figure(
        title="Golden users with torch's top 10, by slice",
        shape="bars",
        labels=tuple(shares),
        series=(Series(name="share", values=tuple(shares.values())),),
        note="head, mid, tail: by what came next; short, long: by the history.",
    )
    agreeing, requests = number(certificate, "agreeing"), number(certificate, "requests")
    return Suite(
        batches=(),
        figures=(figure,),
        key_figures={
            "same top 10": f"{agreeing or 0:,.0f} of {requests or 0:,.0f}",
            "worst difference": in_words(number(certificate, "worst_score_difference")),
            "SavedModel": in_words(number(bundle, "bytes"), "bytes"),
            "of fp32": in_words(number(bundle, "ratio"), "share"),
            "items": in_words(number(bundle, "num_items"), "count"),
        },
    )
