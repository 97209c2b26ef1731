"""Gate after staging: right answers in time through the real server, before any user sees it."""

from __future__ import annotations

import math
from typing import cast

from tasks.contracts.gate_reports import Figure, Series
from tasks.contracts.json_types import Json
from tasks.gates.bounds import SlotBounds
from tasks.gates.checks import Measurement, Payload, Suite, joined, measured
from tasks.gates.records import number, read_record
from tasks.gates.wording import in_words

PROTOCOLS = ("grpc", "rest")
PERCENTILES = ("p50", "p95", "p99")


def suite(payload: Payload, wanted: SlotBounds) -> Suite:
    """Return what is expected of answers and latencies of the staged slot."""
    slot = read_record(payload.path / "slot.json", "staged_slot")
    infra = read_record(payload.path / "infra.json", "infra_check")
    answers = [
        measurement
        for protocol in PROTOCOLS
        for measurement in _answers(protocol, cast("dict[str, Json]", infra[protocol]), wanted)
    ]
    return joined(
        Suite(batches=(measured("answers", answers),)),
        _latency("grpc", _by_variant(infra, "latency_ms"), wanted),
        _latency("rest", _by_variant(infra, "latency_ms_rest"), wanted),
        Suite(batches=(), key_figures=_key_figures(slot, infra)),
    )


def _by_variant(infra: dict[str, Json], name: str) -> dict[str, dict[str, Json]]:
    """Return variant -> percentiles, without the variants that were not measured."""
    latencies = infra.get(name)
    found = latencies if isinstance(latencies, dict) else {}
    return {variant: value for variant, value in found.items() if isinstance(value, dict)}


def _answers(protocol: str, record: dict[str, Json], wanted: SlotBounds) -> list[Measurement]:
    asked = number(record, "n")
    allowed = math.floor((asked or 0) * wanted.max_wrong_share)
    examples = record.get("examples")
    example = f"(e.g. {examples[0]})" if isinstance(examples, list) and examples else ""
    return [
        Measurement(
            name=f"golden requests by {protocol}",
            value=asked,
            minimum=wanted.min_golden_requests,
            unit="count",
        ),
        Measurement(
            name=f"wrong answers by {protocol}",
            value=number(record, "wrong"),
            maximum=allowed,
            unit="count",
            where=f"of {in_words(asked, 'count')} golden requests {example}".strip(),
            why="The server does not answer what the bundle promises.",
        ),
        Measurement(
            name=f"requests without answer by {protocol}",
            value=number(record, "failed"),
            maximum=0,
            unit="count",
            where=f"of {in_words(asked, 'count')} golden requests {example}".strip(),
            why="Users of this slot would get errors.",
        ),
    ]


def _latency(protocol: str, found: dict[str, dict[str, Json]], wanted: SlotBounds) -> Suite:
    candidate, stable = found.get("candidate"), found.get("stable")
    p99 = None if candidate is None else number(candidate, "p99")
    theirs = None if stable is None else number(stable, "p99")
    if theirs is None:
        bound, where = wanted.max_first_p99_ms, "(no stable release to compare with)"
    else:
        bound = max(wanted.max_latency_ratio * theirs, wanted.min_latency_bound_ms)
        where = f"(stable's {in_words(theirs, 'ms')} in the same minute)"
    slow = Measurement(
        name=f"p99 by {protocol}",
        value=p99,
        maximum=bound,
        unit="ms",
        severity="critical" if protocol == "grpc" else "warning",  # the router speaks gRPC
        where=where,
        why="Users would wait longer than the plan allows.",
    )
    figure = Figure(
        title=f"Latency by {protocol}, ms",
        shape="bars",
        labels=PERCENTILES,
        series=tuple(
            Series(name=variant, values=tuple(number(record, name) for name in PERCENTILES))
            for variant, record in found.items()
        ),
        note="Golden requests, one at a time, in turn with stable.",
    )
    return Suite(
        batches=(measured(f"latency by {protocol}", [slow]),),
        figures=(figure,) if found else (),
    )


def _key_figures(slot: dict[str, Json], infra: dict[str, Json]) -> dict[str, str]:
    candidate = _by_variant(infra, "latency_ms").get("candidate", {})
    return {
        "model": str(slot.get("model")),
        "release": str(slot.get("release_number")),
        "slot": str(slot.get("colour")),
        "golden requests": in_words(number(infra, "n"), "count"),
        "wrong": in_words(number(infra, "wrong"), "count"),
        "p99": in_words(number(candidate, "p99"), "ms"),
    }
