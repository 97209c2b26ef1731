"""The planted faults: one table that drives the tests and writes docs/faults.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal["data", "model", "staging", "traffic"]
EVENTS = "gate on validated_events"
FEATURES = "gate on feature_set"
EVALUATION = "gate on evaluation"
BUNDLE = "gate on serving_bundle"
SLOT = "gate on staged_slot"
VERDICT = "gate on step_verdict"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is planted, who stops it, and what a person must be able to read there."""

    key: str
    planted: str
    group: Group
    hop: str
    says: tuple[str, ...]  # parts of the message: column, count, example, next step


FAULTS: tuple[Fault, ...] = (
    Fault(
        key="negative_prices",
        planted="negative prices in 12 rows",
        group="data",
        hop=EVENTS,
        says=("price: min 0 expected, -4.0 found in 12 of", "(e.g. item sku-", "refund"),
    ),
    Fault(
        key="duplicates",
        planted="30 % of the rows are duplicates",
        group="data",
        hop=EVENTS,
        says=("duplicates: at most 1.0 % expected, 30.0 % found", "(e.g. user c-", "export once"),
    ),
    Fault(
        key="future_timestamps",
        planted="timestamps of next year",
        group="data",
        hop=EVENTS,
        says=("future timestamps: none after 2026", "40 found (latest 2027-", "[timestamp]"),
    ),
    Fault(
        key="missing_column",
        planted="a missing column (the customer's id)",
        group="data",
        hop="ingest_events",
        says=("events.parquet: expected columns ['customer']", "found sku, action", "next step"),
    ),
    Fault(
        key="emptied_column",
        planted="a missing column that is optional: order numbers exported empty",
        group="data",
        hop=EVENTS,
        says=(
            "columns emptied since the last run: none expected, 1 found",
            "(basket_id: 100.0 % filled then, 0.0 % now)",
            "export it again",
        ),
    ),
    Fault(
        key="empty_day",
        planted="an empty day in the middle of the export",
        group="data",
        hop=EVENTS,
        says=("days without events: ", "1 found (2026-01-21: 0 events)", "export these days again"),
    ),
    Fault(
        key="type_changed",
        planted="a type changed: prices became text with a currency",
        group="data",
        hop="ingest_events",
        says=("column 'price': expected a number, found 'EUR ", "rows", "next step"),
    ),
    Fault(
        key="times_as_numbers",
        planted="a type changed: times became seconds since 1970",
        group="data",
        hop="ingest_events",
        says=("timestamp: expected times or text, found a column of int64", "next step: set unit"),
    ),
    Fault(
        key="shuffled_catalogue",
        planted="a shuffled catalogue: titles and aisles beside other ids",
        group="data",
        hop=EVENTS,
        says=("categories of neighbours: ", "items described anew", "export the catalogue again"),
    ),
    Fault(
        key="last_period_in_training",
        planted="leakage: the last period's baskets copied into training days",
        group="data",
        hop=EVENTS,
        says=("later baskets that training knows: at most", "(e.g. basket o-", "too good"),
    ),
    Fault(
        key="periods_relabelled",
        planted="leakage: features whose last period is labelled train",
        group="model",
        hop=FEATURES,
        says=("leakage", "expected", "(e.g. of user c-", "too good"),
    ),
    Fault(
        key="features_shuffled",
        planted="features whose sequences are shuffled",
        group="model",
        hop=FEATURES,
        says=("interactions unlike their events: ", "(e.g. of user c-", "mend the code"),
    ),
    Fault(
        key="trained_on_shuffled",
        planted="a model trained on shuffled sequences (its features are sound)",
        group="model",
        hop=EVALUATION,
        says=("not worse than the champion: lower bound of the difference above -0.005 expected",),
    ),
    Fault(
        key="worse_on_tail",
        planted="a model worse by twice the margin on tail items only",
        group="model",
        hop=EVALUATION,
        says=("tail items not proven worse: ", "users (difference -0.01"),
    ),
    Fault(
        key="weights_disturbed",
        planted="weights disturbed between export and SavedModel",
        group="model",
        hop=BUNDLE,
        says=("torch's top 10: at most", "requests answered differently expected"),
    ),
    Fault(
        key="bytes_changed",
        planted="one byte of the sealed SavedModel's weights changed in the store",
        group="model",
        hop="evaluate_model",
        says=("file model/variables/", "expected sha256"),
    ),
    Fault(
        key="signature_swapped",
        planted="a SavedModel whose signatures serving_default and score are swapped",
        group="model",
        hop=BUNDLE,
        says=("signature serving_default of model: ", "candidates string[?, ?]", "Clients call"),
    ),
    Fault(
        key="certificate_outlived",
        planted="weights disturbed after the certificate was written",
        group="staging",
        hop=SLOT,
        says=("wrong answers by grpc: at most", "golden requests (e.g. user c-", "expected sku-"),
    ),
    Fault(
        key="wrong_for_one_percent",
        planted="a slot that answers wrong for 1 % of golden requests",
        group="staging",
        hop=SLOT,
        says=("wrong answers by grpc: at most", "golden requests (e.g. user c-", "expected sku-"),
    ),
    Fault(
        key="slow_at_staging",
        planted="a slot that is 10 x slower than stable before users meet it",
        group="staging",
        hop=SLOT,
        says=("p99 by grpc: at most", "(stable's", "in the same minute)"),
    ),
    Fault(
        key="answers_500",
        planted="a candidate that begins to answer 500",
        group="traffic",
        hop=VERDICT,
        says=("errors of the candidate: at most 1.0 % expected", "taken over by stable of"),
    ),
    Fault(
        key="hangs",
        planted="a candidate that begins to hang",
        group="traffic",
        hop=VERDICT,
        says=("decision: proceed expected, roll_back found",),
    ),
    Fault(
        key="ten_times_slower",
        planted="a candidate that becomes 10 x slower",
        group="traffic",
        hop=VERDICT,
        says=("p95 of the candidate: at most", "stable's", "wait longer"),
    ),
    Fault(
        key="worse_answers",
        planted="a candidate that begins to give worse answers",
        group="traffic",
        hop=VERDICT,
        says=("decision: ship expected, roll_back found", "outcome: hit@10"),
    ),
)


def faults_of(group: Group) -> tuple[Fault, ...]:
    """Return the faults of a group, in the order of the table."""
    return tuple(fault for fault in FAULTS if fault.group == group)


INTRODUCTION = """# Planted faults

Each of these is planted in real files, sent through the real stages (`python -m tasks <stage>`), their gates, real model servers and
a real Envoy by `tests/faults`. For each the suite asserts the hop that stops it, the words with which it does, that the next stage
refuses to read what was stopped, and that users are answered by the old model all the while, traffic faults without one failed
request. `make trials` runs the short form, `make faults` the long one (2,000 requests and more for each fault under traffic), which
prints this table with its figures ([benchmarks](benchmarks.md)). `make faults` also draws the users of an evaluation anew 200 times:
an equal retrain passes, a model worse by the margin does not, and with too few users there is no verdict.

This page is written by `python -m tests.faults.fault_table` from the table that drives the tests; a test compares them.
"""


def page() -> str:
    """Return docs/faults.md."""
    rows = [f"| {fault.planted} | {fault.hop} | `{fault.says[0].strip()}` |" for fault in FAULTS]
    table = "\n".join(["| planted | stopped by | said there |", "|---|---|---|", *rows])
    return f"{INTRODUCTION}\n{table}\n"


if __name__ == "__main__":
    print(page(), end="")
