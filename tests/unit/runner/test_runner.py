from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.__main__ import World, demand_gates, main, read_inputs
from tasks.adapters.artifact_store import Recipe
from tasks.contracts.artifacts import Address, parse_termination
from tasks.contracts.errors import BadRequestError, GateRefusedError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.gate_reports import GateCheck, GateReport
from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import ArtifactKind, Stage

ROOT = Path(__file__).resolve().parents[3]
TRAIN = SimpleNamespace(
    READS={"features": ArtifactKind.FEATURE_SET},
    GATED=frozenset({"features"}),
    PRODUCES=ArtifactKind.TRAINED_MODEL,
)
FORM = {
    "release_id": "manual-1",
    "requested_at": "2026-01-31T10:00:00Z",
    "dataset": "complete-journey",
    "recipe": "popularity",
    "compression": "int8",
    "plan": "replay",
    "seed": 1,
}


@pytest.fixture
def world(tmp_path):
    request = StageRequest(stage=Stage.TRAIN_MODEL, store_url=f"file://{tmp_path}/store")
    return World(request, {})


def seal(world, kind, stage, files):
    folder = Path(world.scratch) / f"{kind}-{len(list(world.scratch.iterdir()))}"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    recipe = Recipe(
        kind=kind, stage=stage, inputs={}, config={"files": list(files.values())}, code="c"
    )
    return world.store.seal(recipe, folder, {})


def gate_report(world, manifest, *, passed):
    check = GateCheck(
        name="price",
        expected="min 0",
        found="-4.0",
        severity="critical",
        passed=passed,
        expectation="expect_column_values_to_be_between",
    )
    report = GateReport(
        artifact=str(manifest.address),
        content=manifest.content,
        kind=manifest.kind,
        checks=(check,),
    )
    files = {"report.json": report.to_text(), "report.html": ""}
    return seal(world, ArtifactKind.GATE_REPORT, Stage.GATE_ARTIFACT, files)


def train(features, gate=None):
    return StageRequest(
        stage=Stage.TRAIN_MODEL,
        store_url="",
        reads={"features": str(features.address)},
        gates={} if gate is None else {"features": str(gate.address)},
    )


def test_an_input_whose_gate_passed_is_read(world) -> None:
    features = seal(world, ArtifactKind.FEATURE_SET, Stage.BUILD_FEATURES, {"a": "1"})
    request = train(features, gate_report(world, features, passed=True))
    inputs = read_inputs(world.store, request, TRAIN)
    demand_gates(world.store, request, TRAIN, inputs)
    assert (inputs["features"].path / "a").read_text() == "1"


def test_an_input_without_a_gate_report_is_refused(world) -> None:
    features = seal(world, ArtifactKind.FEATURE_SET, Stage.BUILD_FEATURES, {"a": "1"})
    inputs = read_inputs(world.store, train(features), TRAIN)
    with pytest.raises(BadRequestError, match="expected the address of its gate report"):
        demand_gates(world.store, train(features), TRAIN, inputs)


def test_an_input_whose_gate_refused_it_is_refused_with_the_finding(world) -> None:
    features = seal(world, ArtifactKind.FEATURE_SET, Stage.BUILD_FEATURES, {"a": "1"})
    request = train(features, gate_report(world, features, passed=False))
    inputs = read_inputs(world.store, request, TRAIN)
    with pytest.raises(GateRefusedError, match="price: min 0 expected, -4.0 found"):
        demand_gates(world.store, request, TRAIN, inputs)


def test_a_report_on_other_bytes_does_not_open_the_gate(world) -> None:
    features = seal(world, ArtifactKind.FEATURE_SET, Stage.BUILD_FEATURES, {"a": "1"})
    other = seal(world, ArtifactKind.FEATURE_SET, Stage.BUILD_FEATURES, {"a": "2"})
    request = train(features, gate_report(world, other, passed=True))
    inputs = read_inputs(world.store, request, TRAIN)
    with pytest.raises(BadRequestError, match="expected a gate report on"):
        demand_gates(world.store, request, TRAIN, inputs)


def test_an_input_of_another_kind_is_refused(world) -> None:
    events = seal(world, ArtifactKind.VALIDATED_EVENTS, Stage.INGEST_EVENTS, {"a": "1"})
    with pytest.raises(BadRequestError, match="expected a feature_set"):
        read_inputs(world.store, train(events), TRAIN)


def request_file(tmp_path, form) -> Path:
    request = StageRequest(
        stage=Stage.REQUEST_RELEASE, store_url=f"file://{tmp_path}/store", settings=form
    )
    path = tmp_path / "request.json"
    path.write_text(request.to_text())
    return path


def run(tmp_path, form):
    environment = {
        **os.environ,
        "HEADRACE_STATE": str(tmp_path / "state"),
        "HEADRACE_TERMINATION_LOG": str(tmp_path / "termination"),
    }
    command = [sys.executable, "-m", "tasks", "request_release", str(request_file(tmp_path, form))]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120)
    return done.returncode, (tmp_path / "termination").read_text()


def test_a_stage_seals_and_its_last_sentence_carries_the_evidence(tmp_path) -> None:
    code, sentence = run(tmp_path, FORM)
    evidence = parse_termination(sentence)
    assert code == ExitCode.DONE
    assert evidence is not None
    folder = tmp_path / "store" / str(evidence.address)
    request = json.loads(next(folder.glob("payload-*/request.json")).read_text())
    assert (request["recipe"], request["champion"]) == ("popularity", None)
    assert request["as_of"] == "2018-01-02T00:00:00Z"


def test_the_same_request_again_is_answered_from_the_seal(tmp_path) -> None:
    _, first = run(tmp_path, FORM)
    code, second = run(tmp_path, FORM)
    assert code == ExitCode.DONE
    assert parse_termination(first) == parse_termination(second)
    assert "re-used" in second


def test_a_wrong_value_in_the_form_ends_with_bad_request_and_names_it(tmp_path) -> None:
    code, sentence = run(tmp_path, {**FORM, "recipe": "magic"})
    assert code == ExitCode.BAD_REQUEST
    assert "magic" in sentence
    assert not list((tmp_path / "store").glob("release_request/*"))


def test_a_request_that_does_not_parse_is_a_bad_request(tmp_path, monkeypatch) -> None:
    log = tmp_path / "termination"
    monkeypatch.setenv("HEADRACE_TERMINATION_LOG", str(log))
    path = tmp_path / "request.json"
    path.write_text("{")
    assert main(["train_model", str(path)]) == ExitCode.BAD_REQUEST
    assert "JSON object" in log.read_text()


def test_addresses_in_requests_are_checked(tmp_path) -> None:
    text = train(SimpleNamespace(address="feature_set/x")).to_text()
    with pytest.raises(BadRequestError, match="artifact address"):
        StageRequest.parse(text.replace('"store_url": ""', '"store_url": "file:///x"'), "request")
    assert Address.parse("feature_set/" + "a" * 64).kind is ArtifactKind.FEATURE_SET
