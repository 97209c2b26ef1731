"""What Envoy counted of each variant, read from its admin endpoint.

A route counts what its users met, by model, variant and release number (`routes.stat_prefix`); of
the tries it gave up, `upstream_rq_retry` is the one count that every kind of failure reaches, REST
and gRPC, and `upstream_rq_retry_limit_exceeded` says as widely when the last one was no better.
Envoy counts no timeout of a try beside which it hedges: that is in the times. Nor does it count a
failure that a slot's gRPC answer tells, whose code is 200: that is in the access log.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import parse_object
from tasks.rollout.envoy import RouterFiles, admin_address
from tasks.rollout.record import Colour

READ_TIMEOUT_SECONDS = 0.5  # the keeper must not stand still beside an Envoy that hangs
_ROUTE = r"^vhost\.[^.]+\.route\."
_CANDIDATE = r"^cluster\..+\.candidate\."
_FILTER = (
    rf"({_ROUTE}.+\.upstream_rq_(completed|5xx|retry|retry_limit_exceeded|time)$)|({_CANDIDATE}("
    r"upstream_rq_total|upstream_rq_pending_failure_eject|outlier_detection\.ejections_enforced_total)$)"
)
_ROUTE_NAME = re.compile(
    _ROUTE + r"(?P<model>[^/.]+)/(?P<variant>[^/.]+)/(?P<number>\d+)\.(?P<what>\w+)$"
)


@dataclass(frozen=True, kw_only=True, order=True)
class VariantName:
    """Whose requests were counted."""

    model: str
    variant: str
    release_number: int


FailedRpcs = tuple[VariantName, str]  # whose gRPC requests failed, and the slot that said so


@dataclass(frozen=True, kw_only=True)
class VariantCounts:
    """Requests of one variant, REST and gRPC together; `within_ms` counts up to each time."""

    completed: int = 0
    failed: int = 0  # the user got a 5xx, or by gRPC Envoy's own refusal
    failed_rpcs: int = 0  # by gRPC, a slot's answer says so (`exposures.failed_rpc`)
    retried: int = 0  # tries given up, for whatever reason
    exhausted: int = (
        0  # the last try failed or was refused as well: on a candidate's route, stable's
    )
    within_ms: Mapping[float, int] = field(default_factory=dict)

    @property
    def failures(self) -> int:
        """Return how many users got an error, by REST or by gRPC."""
        return self.failed + self.failed_rpcs

    @property
    def timed(self) -> int:
        """Return how many requests have a time: all that ended, as of Envoy's last flush."""
        return max(self.within_ms.values(), default=0)

    def slower_than(self, limit_ms: float) -> int:
        """Return how many took longer than the largest bound below the limit.

        Below, since what was given up at a limit took that long to the millisecond.
        """
        bounds = [bound for bound in self.within_ms if bound < limit_ms]
        return self.timed - (self.within_ms[max(bounds)] if bounds else 0)


@dataclass(frozen=True, kw_only=True)
class SlotCounts:
    """What a candidate's slot met, REST and gRPC together."""

    asked: int = 0
    ejections: int = 0  # each after five failures in a row
    passed_on: int = 0  # its failures by gRPC that went on to users: stable's try had begun


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """One reading; Envoy counts from its own start."""

    variants: Mapping[VariantName, VariantCounts]
    slots: Mapping[tuple[str, Colour], SlotCounts]

    def with_failed_rpcs(self, failed_rpcs: Mapping[FailedRpcs, int]) -> Statistics:
        """Return the reading with what the access log tells beside it."""
        variants, slots = dict(self.variants), dict(self.slots)
        for (name, slot), number in failed_rpcs.items():
            counts = variants.get(name, VariantCounts())
            variants[name] = replace(counts, failed_rpcs=counts.failed_rpcs + number)
            if name.variant == "candidate" and slot in set(Colour):
                key = (name.model, Colour(slot))
                met = slots.get(key, SlotCounts())
                slots[key] = replace(met, passed_on=met.passed_on + number)
        return replace(self, variants=variants, slots=slots)


def read_statistics(files: RouterFiles) -> Statistics | None:
    """Ask the running Envoy; None when it does not answer."""
    query = urllib.parse.urlencode(
        {"format": "json", "histogram_buckets": "cumulative", "filter": _FILTER}
    )
    try:
        host, port = admin_address(files)
        connection = http.client.HTTPConnection(host, port, timeout=READ_TIMEOUT_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", f"/stats?{query}")
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != http.client.OK:
                return None
        return parse_statistics(text, f"http://{host}:{port}/stats")
    except (OSError, BadRequestError, http.client.HTTPException):
        return None


def parse_statistics(text: str | bytes, where: str) -> Statistics:
    """Read Envoy's JSON; errors name `where`."""
    record: Any = parse_object(text, where)
    try:
        counts: dict[str, int] = {}
        times: dict[str, dict[float, int]] = {}
        for entry in record["stats"]:
            if "value" in entry:
                counts[entry["name"]] = int(entry["value"])
            for histogram in entry.get("histograms", []):
                times[histogram["name"]] = _buckets(histogram["buckets"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{where}: expected Envoy's statistics as JSON, found: {error!r}"
        raise BadRequestError(message) from error
    return Statistics(variants=_variants(counts, times), slots=_slots(counts))


def _buckets(raw: Iterable[Mapping[str, Any]]) -> dict[float, int]:
    return {float(bucket["upper_bound"]): int(bucket["cumulative"]) for bucket in raw}


def _variants(
    counts: Mapping[str, int], times: Mapping[str, Mapping[float, int]]
) -> dict[VariantName, VariantCounts]:
    """Sum up the virtual hosts: a model's own and that of `x-model`."""
    sums: dict[VariantName, dict[str, int]] = {}
    within: dict[VariantName, dict[float, int]] = {}
    for name, value in counts.items():
        variant, what = _variant_in(name)
        if variant is not None:
            mine = sums.setdefault(variant, {})
            mine[what] = mine.get(what, 0) + value
    for name, numbers in times.items():
        variant, _ = _variant_in(name)
        if variant is not None:
            buckets = within.setdefault(variant, {})
            for bound, number in numbers.items():
                buckets[bound] = buckets.get(bound, 0) + number
    return {
        variant: VariantCounts(
            completed=sums.get(variant, {}).get("upstream_rq_completed", 0),
            failed=sums.get(variant, {}).get("upstream_rq_5xx", 0),
            retried=sums.get(variant, {}).get("upstream_rq_retry", 0),
            exhausted=sums.get(variant, {}).get("upstream_rq_retry_limit_exceeded", 0),
            within_ms=within.get(variant, {}),
        )
        for variant in sorted({*sums, *within})
    }


def _variant_in(name: str) -> tuple[VariantName | None, str]:
    found = _ROUTE_NAME.match(name)
    if found is None:
        return None, ""
    variant = VariantName(
        model=found["model"], variant=found["variant"], release_number=int(found["number"])
    )
    return variant, found["what"]


_SLOT_NAME = re.compile(
    r"^cluster\.(?P<model>[^.]+)\.(?P<colour>[^.]+)\.[^.]+\.candidate\.(?P<what>.+)$"
)


def _slots(counts: Mapping[str, int]) -> dict[tuple[str, Colour], SlotCounts]:
    sums: dict[tuple[str, Colour], dict[str, int]] = {}
    for name, value in counts.items():
        found = _SLOT_NAME.match(name)
        if found is not None and found["colour"] in set(Colour):
            mine = sums.setdefault((found["model"], Colour(found["colour"])), {})
            mine[found["what"]] = mine.get(found["what"], 0) + value
    return {
        slot: SlotCounts(
            # A connection that cannot be made is no request yet, but it was one asked.
            asked=mine.get("upstream_rq_total", 0)
            + mine.get("upstream_rq_pending_failure_eject", 0),
            ejections=mine.get("outlier_detection.ejections_enforced_total", 0),
        )
        for slot, mine in sums.items()
    }
