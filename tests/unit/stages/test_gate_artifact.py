from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.gate_reports import GateReport
from tasks.contracts.requests import PLANS, ReleaseRequest
from tasks.contracts.stage_io import StageContext, StageInput
from tasks.contracts.stages import ArtifactKind, Stage
from tasks.stages import gate_artifact

ROOT = Path(__file__).resolve().parents[3]
RIGHT = {"n": 500, "wrong": 0, "failed": 0, "examples": []}
FAST = {"requests": 300, "p50": 3.0, "p95": 6.0, "p99": 9.0}


def release(**changes) -> ReleaseRequest:
    return ReleaseRequest(
        **{
            "release_id": "r-1",
            "model": "recommender",
            "dataset": "complete-journey",
            "as_of": "2018-01-02T00:00:00Z",
            "recipe": "blended_transformer",
            "compression": "int8",
            "plan": PLANS["replay"],
            **changes,
        }
    )


@pytest.fixture
def context_of(tmp_path):
    """Return a context whose artifact is a staged slot with `wrong` wrong answers by gRPC."""

    def make(wrong: int = 0, kind=ArtifactKind.STAGED_SLOT, **changes) -> StageContext:
        payload, out = tmp_path / "payload", tmp_path / "out"
        payload.mkdir(exist_ok=True)
        out.mkdir(exist_ok=True)
        slot = {"format": "staged_slot/1", "model": "recommender", "release_number": 7}
        infra = {
            "format": "infra_check/1",
            "n": 1000,
            "wrong": wrong,
            "grpc": {**RIGHT, "wrong": wrong},
            "rest": RIGHT,
            "latency_ms": {"candidate": FAST, "stable": None},
            "latency_ms_rest": {"candidate": FAST, "stable": None},
        }
        (payload / "slot.json").write_text(json.dumps(slot))
        (payload / "infra.json").write_text(json.dumps(infra))
        url = f"file://{tmp_path}/store"
        store = ArtifactStore(ObjectStore(url), cache=tmp_path / "cache")
        recipe = Recipe(
            kind=kind, stage=Stage.STAGE_BUNDLE, inputs={}, config={"wrong": wrong}, code="c"
        )
        manifest = store.seal(recipe, payload, {})
        artifact = StageInput(
            address=str(manifest.address), manifest=manifest, path=store.fetch(manifest)
        )
        return StageContext(
            inputs={"artifact": artifact},
            out=out,
            work=tmp_path,
            progress=lambda _sentence, _fraction: None,
            store_url=url,
            release=release(**changes),
        )

    return make


def test_a_passing_gate_writes_report_and_page(context_of) -> None:
    context = context_of()
    outcome = gate_artifact.run(context)
    assert not outcome.refused
    assert sorted(path.name for path in context.out.iterdir()) == ["report.html", "report.json"]
    report = GateReport.parse((context.out / "report.json").read_bytes(), "report.json")
    assert report.passed
    assert report.content == context.inputs["artifact"].manifest.content


def test_a_refusal_is_an_outcome_with_a_sentence_and_is_written_all_the_same(context_of) -> None:
    context = context_of(wrong=5)
    outcome = gate_artifact.run(context)
    assert outcome.refused
    assert outcome.facts["failed"] == 1
    assert outcome.sentence == (
        "Gate 'staged_slot' refused: 1 of 8 failed - wrong answers by grpc: at most 1 expected, "
        "5 found of 500 golden requests - The server does not answer what the bundle promises."
    )
    assert "<h1>Refused</h1>" in (context.out / "report.html").read_text()


def test_equal_inputs_give_equal_bytes(context_of) -> None:
    context = context_of()
    texts = []
    for _ in range(2):
        gate_artifact.run(context)
        texts.append([(context.out / n).read_bytes() for n in ("report.json", "report.html")])
    assert texts[0] == texts[1]


def test_another_release_with_the_same_bounds_has_the_same_configuration(context_of) -> None:
    first = gate_artifact.configure(context_of())
    assert gate_artifact.configure(context_of(release_id="r-2", seed=9)) == first


def test_another_plan_is_another_configuration(context_of) -> None:
    first = gate_artifact.configure(context_of(kind=ArtifactKind.STEP_VERDICT))
    other = gate_artifact.configure(
        context_of(kind=ArtifactKind.STEP_VERDICT, plan=PLANS["fortnight"])
    )
    assert other != first


def test_an_artifact_without_a_suite_is_a_bad_request(context_of) -> None:
    with pytest.raises(BadRequestError, match="gate: expected an artifact of kind"):
        gate_artifact.configure(context_of(kind=ArtifactKind.RELEASE))


def test_a_sealed_report_is_answered_without_pandas_or_great_expectations() -> None:
    code = (
        "import sys, tasks.stages.gate_artifact;"
        "print(sorted({'pandas', 'great_expectations', 'scipy', 'duckdb'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
