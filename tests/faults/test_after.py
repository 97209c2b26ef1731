"""What is asked after every fault finds a stage that went on nevertheless."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tasks.contracts.artifacts import Address, SealedEvidence
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.gate_reports import GateCheck, GateReport
from tasks.contracts.stages import STAGE_FACTS, ArtifactKind, Stage
from tests.faults.after import nothing_runs_after, readers
from tests.faults.line import Hop, Line, Ran, Release

KIND = ArtifactKind
FORM = {
    "release_id": "r-1",
    "requested_at": "2026-01-31T10:00:00Z",
    "model": "shop",
    "dataset": "events",
    "as_of": "2026-01-31T00:00:00Z",
    "recipe": "popularity",
    "compression": "int8",
    "plan": "replay",
    "seed": 1,
}


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """The release of an export without a column: ingest_events refuses it."""
    events = tmp_path / "events.csv"
    events.write_text("sku,action\n1,buy\n")
    line = Line(folder=tmp_path / "line")
    ran = line.run(Stage.REQUEST_RELEASE, settings={**FORM, "events_url": str(events)})
    assert ran.address is not None, ran.sentence
    return Release(line=line, address=ran.address)


def test_a_stage_that_refuses_is_refused_again_and_nothing_is_made_of_it(release: Release) -> None:
    stop = release.pass_through(Stage.INGEST_EVENTS)
    assert stop is not None
    assert stop.code is ExitCode.BAD_REQUEST
    nothing_runs_after(stop, release)


class Careless(Release):
    """A release whose stages go on whatever they are given."""

    def run(self, stage: Stage, **_: Any) -> Ran:
        made = SealedEvidence(
            address=Address(kind=STAGE_FACTS[stage].produces, key="0" * 64),
            manifest_digest="0" * 64,
        )
        return Ran(stage=stage, code=ExitCode.DONE, sentence="went on", evidence=made)


def test_a_stage_that_goes_on_is_found_behind_a_stage_and_behind_a_gate(tmp_path: Path) -> None:
    release = Careless(line=Line(folder=tmp_path), address="")
    stop = Hop(name="ingest_events", code=ExitCode.BAD_REQUEST, sentence="no such column")
    with pytest.raises(AssertionError, match="went on"):
        nothing_runs_after(stop, release)
    check = GateCheck(
        name="price",
        expected="min 0",
        found="-4.0",
        severity="critical",
        passed=False,
        expectation="expect_column_values_to_be_between",
    )
    report = GateReport(artifact="", content="", kind=KIND.VALIDATED_EVENTS, checks=(check,))
    gate = Hop(name="gate", code=ExitCode.GATE_REFUSED, sentence="refused", report=report)
    with pytest.raises(AssertionError, match="went on"):
        nothing_runs_after(gate, release)


def made(*kinds: ArtifactKind) -> Release:
    return Release(line=cast("Line", None), address="", made=dict.fromkeys(kinds, ""))


def test_every_stage_that_could_begin_is_asked() -> None:
    assert readers(KIND.VALIDATED_EVENTS, made()) == [Stage.BUILD_FEATURES]
    assert readers(KIND.FEATURE_SET, made()) == [Stage.TRAIN_MODEL]
    assert readers(KIND.FEATURE_SET, made(KIND.TRAINED_MODEL)) == [
        Stage.TRAIN_MODEL,
        Stage.COMPRESS_MODEL,
    ]
    verdict = made(KIND.STAGED_SLOT, KIND.FEATURE_SET)
    assert readers(KIND.STEP_VERDICT, verdict) == [Stage.SHIFT_TRAFFIC, Stage.PROMOTE_RELEASE]


def test_an_artifact_that_no_gate_keeps_from_a_reader_is_found() -> None:
    with pytest.raises(AssertionError, match="mirror: expected a stage that reads it"):
        readers(KIND.MIRROR, made())
