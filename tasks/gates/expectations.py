"""Great Expectations over the batches of a suite: the only file that imports it."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tasks.contracts.gate_reports import GateCheck
from tasks.contracts.json_types import Json
from tasks.gates.checks import Batch, Check, Suite
from tasks.gates.wording import in_words

EXAMPLES = 3


def validate(suite: Suite) -> tuple[GateCheck, ...]:
    """Run every expectation of the suite, in order; nothing is stored and no network is used."""
    source = _pandas_source()
    return tuple(found for batch in suite.batches for found in _validate(source, batch))


def _pandas_source() -> Any:  # untyped: Great Expectations is imported late
    """Return the pandas source of a context that lives in memory only."""
    # Read when the package is imported, which takes 5 s: not before a gate really has to run.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    import great_expectations as gx  # noqa: PLC0415
    from great_expectations.data_context.types.base import (  # noqa: PLC0415
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    in_memory = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = gx.get_context(mode="ephemeral", project_config=in_memory)
    return context.data_sources.add_pandas("artifact")


def _validate(source: Any, batch: Batch) -> list[GateCheck]:
    import great_expectations as gx  # noqa: PLC0415
    from great_expectations.expectations.expectation_configuration import (  # noqa: PLC0415
        ExpectationConfiguration,
    )
    from great_expectations.expectations.metadata_types import FailureSeverity  # noqa: PLC0415

    expectations = [
        ExpectationConfiguration(
            type=check.expectation,
            kwargs=dict(check.arguments),
            severity=FailureSeverity(check.severity),
            meta={"check": place},
        ).to_domain_obj()
        for place, check in enumerate(batch.checks)
    ]
    asset = source.add_dataframe_asset(batch.name)
    whole = asset.add_batch_definition_whole_dataframe("whole")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a foreign package, on data it was asked to judge
        result = whole.get_batch({"dataframe": batch.frame}).validate(
            gx.ExpectationSuite(name=batch.name, expectations=expectations),
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES},
        )
    by_place = {_place(item): item for item in result.results}  # they come in another order
    return [_check(batch, check, by_place[n]) for n, check in enumerate(batch.checks)]


def _place(outcome: Any) -> int:
    return int(outcome.expectation_config.meta["check"])


def _check(batch: Batch, check: Check, outcome: Any) -> GateCheck:
    found, where = _finding(batch, check, outcome.result or {}, passed=bool(outcome.success))
    return GateCheck(
        name=check.name,
        expected=check.expected,
        found=found,
        where=" ".join(part for part in (where, check.where) if part),
        severity=check.severity,
        passed=bool(outcome.success),
        expectation=check.expectation,
        why=check.why,
        limits={name: value for name, value in check.arguments.items() if name != "column"},
        measured=_measured(batch, check, outcome.result or {}),
    )


def _measured(batch: Batch, check: Check, result: Mapping[str, Any]) -> dict[str, Json]:
    """Return the numbers that the verdict follows from (`tasks.contracts.gate_verdicts`)."""
    column = str(check.arguments["column"])
    if column not in batch.frame.columns:
        return {"error": "no such column"}
    if "unexpected_count" not in result:
        return {"value": _as_json(result.get("observed_value"))}
    counts: dict[str, Json] = {
        "rows": int(result["element_count"]),
        "unexpected": int(result["unexpected_count"]),
        "missing": int(result.get("missing_count") or 0),
    }
    if len(batch.frame) == 1 and isinstance(word := batch.frame[column].iloc[0], str):
        counts["value"] = word
    return counts


def _as_json(value: Any) -> Json:
    number = _plain(value)
    if isinstance(number, float) and not math.isfinite(number):
        return None if math.isnan(number) else f"{number:g}"
    return number


def _finding(
    batch: Batch, check: Check, result: Mapping[str, Any], *, passed: bool
) -> tuple[str, str]:
    """Return what was found and where, in words."""
    column = str(check.arguments["column"])
    if column not in batch.frame.columns:
        return "no such column", ""
    if "unexpected_count" not in result:
        return in_words(result.get("observed_value"), check.unit), ""
    if len(batch.frame) == 1:
        return in_words(_plain(batch.frame[column].iloc[0]), check.unit), ""
    rows = in_words(result["element_count"], "count")
    if passed and not result["unexpected_count"]:
        return "as expected", f"in {rows} {batch.row_noun}"
    count = in_words(result["unexpected_count"], "count")
    where = f"in {count} of {rows} {batch.row_noun}{_example(batch, result)}"
    return _worst(batch.frame[column], check, result), where


def _worst(values: pd.Series[Any], check: Check, result: Mapping[str, Any]) -> str:
    """Return the value furthest outside a range, or the first unexpected one."""
    if check.expectation == "expect_column_values_to_not_be_null":
        return "none"
    minimum = check.arguments.get("min_value")
    if isinstance(minimum, int | float) and float(values.min()) < minimum:
        return in_words(_plain(values.min()), check.unit)
    if check.arguments.get("max_value") is not None:
        return in_words(_plain(values.max()), check.unit)
    unexpected = result["partial_unexpected_list"]
    return in_words(_plain(unexpected[0]), check.unit) if unexpected else "others"


def _example(batch: Batch, result: Mapping[str, Any]) -> str:
    places = result.get("partial_unexpected_index_list") or []
    if batch.example is None or not places:
        return ""
    value = batch.frame[batch.example].loc[places[0]]
    return f" (e.g. {batch.example.removesuffix('_id')} {in_words(_plain(value))})"


def _plain(value: Any) -> float | str | None:
    if value is None or value is pd.NA:
        return None
    return value if isinstance(value, str) else float(value)
