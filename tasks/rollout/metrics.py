"""Metrics by model, variant and release number in Prometheus' text format, from Envoy's counts.

TensorFlow Serving's own metrics carry no version. The keeper replaces the file as a whole, for a
textfile collector or any static server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from tasks.rollout.comparison import ShadowReport
from tasks.rollout.envoy import RouterFiles
from tasks.rollout.envoy_stats import Statistics, VariantCounts, VariantName
from tasks.rollout.phases import Pause, Phase
from tasks.rollout.record import StateRecord

METRICS_SECONDS = 1.0


class _Sample(NamedTuple):
    labels: Mapping[str, str]
    value: float
    suffix: str = ""


class _Metric(NamedTuple):
    name: str
    kind: str
    meaning: str
    samples: Sequence[_Sample]


def metrics_file(files: RouterFiles) -> Path:
    """Return where the keeper writes them."""
    return files.folder / "metrics.prom"


def render_metrics(
    statistics: Statistics,
    records: Iterable[StateRecord],
    read_at_unix: float,
    shadows: Sequence[ShadowReport] = (),
    failed_looks: Mapping[str, int] = MappingProxyType({}),
    *,
    dropped_lines: int = 0,
) -> str:
    """Return the text; counters begin anew with Envoy or the keeper, as Prometheus expects of them.

    `failed_looks` counts by model how often this keeper could not do what it does at each turn,
    `dropped_lines` the access log's lines that it dropped unlanded.
    """
    lines: list[str] = []
    told = [*_of_variants(statistics), *_of_rollouts(list(records)), *_of_shadows(shadows)]
    of_keeper = [_failed_looks(failed_looks), _dropped_lines(dropped_lines), _read_at(read_at_unix)]
    for metric in [*told, *of_keeper]:
        lines.append(f"# HELP {metric.name} {metric.meaning}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        lines += [
            f"{metric.name}{sample.suffix}{_labels(sample.labels)} {sample.value:.15g}"
            for sample in metric.samples
        ]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    # Values are names of models, phases, colours and numbers: none needs an escape.
    words = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{{{words}}}" if words else ""


def _of_variants(statistics: Statistics) -> Iterator[_Metric]:
    variants = statistics.variants
    yield _counter(
        "headrace_requests_total",
        "Requests that ended, by the variant that their user was assigned to.",
        {name: counts.completed for name, counts in variants.items()},
    )
    yield _Metric(
        "headrace_failed_requests_total",
        "counter",
        "Requests whose user got a server error, told by the code or by a slot's gRPC status.",
        [sample for name, counts in variants.items() for sample in _failed(name, counts)],
    )
    yield _counter(
        "headrace_given_up_tries_total",
        "Tries that failed or took too long, so that another was made.",
        {name: counts.retried for name, counts in variants.items()},
    )
    yield _Metric(
        "headrace_request_duration_seconds",
        "histogram",
        "Time from a request to its answer, whoever gave it.",
        [sample for name, counts in variants.items() for sample in _times(name, counts)],
    )
    slots = statistics.slots.items()
    yield _Metric(
        "headrace_candidate_slot_requests_total",
        "counter",
        "Requests that met a slot as the candidate's.",
        [_Sample({"model": m, "slot": c.value}, counts.asked) for (m, c), counts in slots],
    )
    yield _Metric(
        "headrace_candidate_slot_ejections_total",
        "counter",
        "How often Envoy stopped asking a candidate's slot after failures in a row.",
        [_Sample({"model": m, "slot": c.value}, counts.ejections) for (m, c), counts in slots],
    )


def _counter(name: str, meaning: str, values: Mapping[VariantName, int]) -> _Metric:
    samples = [_Sample(_of(variant), value) for variant, value in values.items()]
    return _Metric(name, "counter", meaning, samples)


def _failed(name: VariantName, counts: VariantCounts) -> Iterator[_Sample]:
    # Apart, as one begins anew with Envoy and the other with the keeper: a sum that falls when one
    # of them starts again would look like as many new failures.
    yield _Sample({**_of(name), "by": "code"}, counts.failed)
    yield _Sample({**_of(name), "by": "grpc_status"}, counts.failed_rpcs)


def _of(name: VariantName) -> dict[str, str]:
    return {"model": name.model, "variant": name.variant, "release": str(name.release_number)}


def _times(name: VariantName, counts: VariantCounts) -> Iterator[_Sample]:
    for bound, number in sorted(counts.within_ms.items()):
        yield _Sample({**_of(name), "le": f"{bound / 1000:g}"}, number, "_bucket")
    yield _Sample({**_of(name), "le": "+Inf"}, counts.timed, "_bucket")
    yield _Sample(_of(name), counts.timed, "_count")


def _of_rollouts(records: Sequence[StateRecord]) -> Iterator[_Metric]:
    def gauge(name: str, meaning: str, samples: Sequence[_Sample]) -> _Metric:
        return _Metric(name, "gauge", meaning, samples)

    yield gauge(
        "headrace_rollout_phase",
        "1 for the phase that a model's rollout is in.",
        [
            _Sample({"model": one.model, "phase": phase.value}, one.status.phase is phase)
            for one in records
            for phase in Phase
        ],
    )
    yield gauge(
        "headrace_rollout_paused",
        "1 for who or what paused a model's step: that decides who may go on with it.",
        [
            _Sample({"model": one.model, "by": by.value}, one.status.paused_by is by)
            for one in records
            for by in Pause
        ],
    )
    yield gauge(
        "headrace_candidate_share_ratio",
        "Share of users that the candidate takes.",
        [_Sample({"model": one.model}, one.status.share / 10_000) for one in records],
    )
    yield gauge(
        "headrace_candidate_refused",
        "1 while a candidate in progress was cut by the keeper or judged unfavourably.",
        [_Sample({"model": one.model}, one.status.refused) for one in records],
    )
    yield gauge(
        "headrace_slot_ready",
        "1 while a slot with a release answers the keeper, 0 when it has not for seconds.",
        [
            _Sample({"model": one.model, "slot": colour.value}, colour not in one.unready)
            for one in records
            for colour in sorted(one.slots)
        ],
    )
    yield gauge(
        "headrace_release_number",
        "Number of the release in each role.",
        [
            _Sample({"model": one.model, "variant": variant}, content.release_number)
            for one in records
            for variant, content in (("stable", one.stable), ("candidate", one.candidate))
            if content is not None
        ],
    )


def _of_shadows(reports: Sequence[ShadowReport]) -> Iterator[_Metric]:
    def by(report: ShadowReport, **more: str) -> dict[str, str]:
        return {"model": report.model, "release": str(report.candidate), **more}

    yield _Metric(
        "headrace_shadow_compared_total",
        "counter",
        "Rankings of candidate and stable that were compared on mirrored requests.",
        [_Sample(by(one), one.compared) for one in reports],
    )
    yield _Metric(
        "headrace_shadow_dropped_total",
        "counter",
        "Mirrored requests that were not compared, by reason, of all models together.",
        [
            _Sample({"reason": reason}, number)
            for reason, number in sorted(_dropped(reports).items())
        ],
    )
    yield _Metric(
        "headrace_shadow_overlap_ratio",
        "gauge",
        "Mean share of the first items that candidate and stable both show.",
        [
            _Sample(by(one, depth=depth), value)
            for one in reports
            for depth, value in one.overlap.items()
            if one.compared
        ],
    )
    yield _Metric(
        "headrace_shadow_rank_biased_overlap",
        "gauge",
        "Mean extrapolated rank-biased overlap of candidate and stable (persistence .9).",
        [_Sample(by(one), one.rbo) for one in reports if one.compared],
    )
    yield _Metric(
        "headrace_shadow_score_stability_index",
        "gauge",
        "Population stability index of the candidate's scores against stable's.",
        [
            _Sample(by(one), one.score_stability_index)
            for one in reports
            if one.score_stability_index is not None
        ],
    )


def _dropped(reports: Sequence[ShadowReport]) -> dict[str, int]:
    """Return the comparator's own counts, which every report repeats: the newest are the largest."""
    found: dict[str, int] = {}
    for report in reports:
        for reason, number in report.dropped.items():
            found[reason] = max(number, found.get(reason, 0))
    return found


def _failed_looks(looks: Mapping[str, int]) -> _Metric:
    return _Metric(
        "headrace_keeper_failed_looks_total",
        "counter",
        "Looks at a model that ended in an error: its last routes stand until Envoy refuses them.",
        [_Sample({"model": model}, number) for model, number in sorted(looks.items())],
    )


def _dropped_lines(number: int) -> _Metric:
    return _Metric(
        "headrace_dropped_access_lines_total",
        "counter",
        "Lines of the access log that were dropped, as they could not land: their exposures are lost.",
        [_Sample({}, number)],
    )


def _read_at(moment: float) -> _Metric:
    meaning = "When the keeper last read what Envoy counted, in unix seconds."
    return _Metric(
        "headrace_keeper_read_timestamp_seconds", "gauge", meaning, [_Sample({}, moment)]
    )
