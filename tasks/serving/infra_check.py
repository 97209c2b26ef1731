"""The infra check of a staged slot: golden answers through the real server, and how long they take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tasks.contracts.json_types import Json
from tasks.serving.golden_answers import (
    COMPARED_PLACES,
    TIE_TOLERANCE,
    GoldenRequest,
    Ranked,
    compare,
)

MAX_EXAMPLES = 5
WARM_UP_REQUESTS = 20
PERCENTILES = (50, 95, 99)

Ask = Callable[[GoldenRequest], Ranked]
Send = Callable[[GoldenRequest], object]


@dataclass(frozen=True, kw_only=True)
class AnswerCheck:
    """How many golden requests one protocol answered wrongly, or not at all."""

    asked: int
    wrong: int
    failed: int
    worst_score_difference: float | None
    examples: tuple[str, ...] = ()

    def to_record(self) -> dict[str, Json]:
        """Return the numbers for `infra.json`."""
        return {
            "n": self.asked,
            "wrong": self.wrong,
            "failed": self.failed,
            "worst_score_difference": self.worst_score_difference,
            "examples": list(self.examples),
        }


@dataclass(kw_only=True)
class _Tally:
    wrong: int = 0
    failed: int = 0
    worst: float = 0.0
    finite: bool = True
    examples: list[str] = field(default_factory=list)

    def example(self, text: str) -> None:
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(text)


def check_answers(golden: Sequence[GoldenRequest], ask: Ask) -> AnswerCheck:
    """Ask every golden request once and compare; an error counts as failed, not as wrong."""
    tally = _Tally()
    for request in golden:
        try:
            served = ask(request)
        except Exception as error:  # noqa: BLE001  whatever it was, the user got no answer
            tally.failed += 1
            tally.example(f"user {request.user}: {type(error).__name__}: {error}"[:300])
            continue
        found = compare(served, request.answer)
        if found.worst_score_difference is None:
            tally.finite = False
        else:
            tally.worst = max(tally.worst, found.worst_score_difference)
        if not found.right:
            tally.wrong += 1
            tally.example(_difference(request, served, found.first_wrong_place))
    return AnswerCheck(
        asked=len(golden),
        wrong=tally.wrong,
        failed=tally.failed,
        worst_score_difference=tally.worst if tally.finite else None,
        examples=tuple(tally.examples),
    )


def _difference(request: GoldenRequest, served: Ranked, place: int | None) -> str:
    if place is None:
        return f"user {request.user}: {len(served.items)} items, or a score that is no number"
    return (
        f"user {request.user} place {place + 1}: expected {request.answer.items[place]} "
        f"({request.answer.scores[place]:.6g}), found {served.items[place]} "
        f"({served.scores[place]:.6g})"
    )


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Latencies of one server in ms, by percentile (nearest rank)."""

    requests: int
    milliseconds: Mapping[int, float]

    def to_record(self) -> dict[str, Json]:
        """Return the numbers for `infra.json`."""
        named: dict[str, Json] = {f"p{rank}": value for rank, value in self.milliseconds.items()}
        return {"requests": self.requests, **named}


def percentile(ordered: Sequence[float], rank: int) -> float:
    """Return the nearest-rank percentile of ascending values."""
    return ordered[max(0, math.ceil(rank / 100 * len(ordered)) - 1)]


def latency_of(seconds: Sequence[float]) -> Latency:
    """Return the percentiles of measured seconds."""
    ordered = sorted(seconds)
    ranks = {rank: round(percentile(ordered, rank) * 1000, 3) for rank in PERCENTILES}
    return Latency(requests=len(ordered), milliseconds=ranks)


def measure_side_by_side(
    golden: Sequence[GoldenRequest], senders: Mapping[str, Send]
) -> dict[str, Latency]:
    """Send every request to every server in turn, so that a busy moment hits all alike.

    Servers are warmed up first; who goes first changes from request to request.
    """
    names = list(senders)
    for request in golden[:WARM_UP_REQUESTS]:
        for name in names:
            senders[name](request)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn, request in enumerate(golden):
        for name in names if turn % 2 == 0 else reversed(names):
            start = time.perf_counter()
            senders[name](request)
            seconds[name].append(time.perf_counter() - start)
    return {name: latency_of(measured) for name, measured in seconds.items()}


@dataclass(frozen=True, kw_only=True)
class InfraCheck:
    """Everything the gate of a staged slot judges."""

    grpc: AnswerCheck
    rest: AnswerCheck
    latency: Mapping[str, Mapping[str, Latency]]  # protocol -> candidate, stable

    def to_record(self) -> dict[str, Json]:
        """Return `infra.json` (`infra_check/1`); `latency_ms` is gRPC's, as the router uses it."""
        return {
            "format": "infra_check/1",
            "compared_places": COMPARED_PLACES,
            "tie_tolerance": TIE_TOLERANCE,
            "n": self.grpc.asked + self.rest.asked,
            "wrong": self.grpc.wrong + self.rest.wrong,
            "failed": self.grpc.failed + self.rest.failed,
            "grpc": self.grpc.to_record(),
            "rest": self.rest.to_record(),
            "latency_ms": _latency_record(self.latency["grpc"]),
            "latency_ms_rest": _latency_record(self.latency["rest"]),
        }


def _latency_record(latencies: Mapping[str, Latency]) -> dict[str, Json]:
    return {
        name: latencies[name].to_record() if name in latencies else None
        for name in ("candidate", "stable")
    }
