from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.__main__ import PlainProgress, World, _make, demand_gates, main, read_inputs
from tasks.adapters.artifact_store import Recipe
from tasks.adapters.claims import Claimant, claimed
from tasks.contracts.artifacts import Address, parse_termination
from tasks.contracts.errors import BadRequestError, GateRefusedError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.gate_reports import GateCheck, GateReport
from tasks.contracts.log_lines import LineLog, Subject
from tasks.contracts.ranks import ALONE
from tasks.contracts.stage_io import Outcome, StageRequest
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
        limits={"min_value": 0},
        measured={"rows": 1, "unexpected": 0 if passed else 1, "missing": 0},
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


@pytest.mark.parametrize(
    ("name", "damage"),
    (
        pytest.param("payload-*/request.json", lambda file: file.write_text("{}"), id="cut short"),
        pytest.param("payload-*/request.json", Path.unlink, id="removed"),
        pytest.param("manifest.json", lambda file: file.write_text("{"), id="manifest"),
    ),
)
def test_a_corrupt_artifact_is_not_tried_again_and_its_next_step_works(
    tmp_path, monkeypatch, name, damage
) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("HEADRACE_TERMINATION_LOG", str(tmp_path / "termination"))
    command = ["request_release", str(request_file(tmp_path, FORM))]
    assert main(command) == ExitCode.DONE
    evidence = parse_termination((tmp_path / "termination").read_text())
    folder = tmp_path / "store" / str(evidence.address)
    damage(next(folder.glob(name)))
    assert main(command) == ExitCode.BAD_REQUEST  # Airflow does not retry
    sentence = (tmp_path / "termination").read_text()
    assert name.rpartition("/")[2] in sentence
    assert "restore it from a copy, or remove" in sentence
    assert "run its stage again" in sentence
    (folder / "manifest.json").unlink()
    assert main(command) == ExitCode.DONE
    assert parse_termination((tmp_path / "termination").read_text()) == evidence


def test_a_file_added_to_an_artifact_is_to_be_moved_away(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("HEADRACE_TERMINATION_LOG", str(tmp_path / "termination"))
    command = ["request_release", str(request_file(tmp_path, FORM))]
    assert main(command) == ExitCode.DONE
    payload = next((tmp_path / "store").glob("release_request/*/payload-*"))
    (payload / "more").write_text("x")
    assert main(command) == ExitCode.BAD_REQUEST
    assert "found more; move it away" in (tmp_path / "termination").read_text()
    (payload / "more").unlink()
    assert main(command) == ExitCode.DONE


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


@pytest.mark.parametrize(
    ("form", "code"),
    (
        pytest.param(FORM, ExitCode.DONE, id="done"),
        pytest.param({**FORM, "recipe": "magic"}, ExitCode.BAD_REQUEST, id="bad request"),
    ),
)
def test_a_termination_log_that_cannot_be_written_changes_no_verdict(
    tmp_path, monkeypatch, capsys, form, code
) -> None:
    log = tmp_path / "absent" / "termination"
    monkeypatch.setenv("HEADRACE_TERMINATION_LOG", str(log))
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path / "state"))
    assert main(["request_release", str(request_file(tmp_path, form))]) == code
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == (
        "termination log: expected a file that can be written: [Errno 2] No such file or "
        f"directory: '{log}'"
    )
    evidence = parse_termination(said[-2])  # the sentence is on the screen in any case
    assert (evidence is not None) == (code == ExitCode.DONE)


def test_addresses_in_requests_are_checked(tmp_path) -> None:
    text = train(SimpleNamespace(address="feature_set/x")).to_text()
    with pytest.raises(BadRequestError, match="artifact address"):
        StageRequest.parse(text.replace('"store_url": ""', '"store_url": "file:///x"'), "request")
    assert Address.parse("feature_set/" + "a" * 64).kind is ArtifactKind.FEATURE_SET


# Two processes that are asked for the same artifact


def start(tmp_path, name, form=FORM, **environment):
    said = tmp_path / f"termination-{name}"
    command = [sys.executable, "-m", "tasks", "request_release", str(request_file(tmp_path, form))]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={
            **os.environ,
            "HEADRACE_STATE": str(tmp_path / "state"),
            "HEADRACE_TERMINATION_LOG": str(said),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process, said


def test_the_same_request_in_six_processes_is_done_once_and_all_end_with_its_seal(tmp_path) -> None:
    started = [start(tmp_path, number) for number in range(6)]
    codes = [process.wait(120) for process, _ in started]
    sentences = [said.read_text() for _, said in started]
    assert codes == [0] * 6, sentences
    assert len({parse_termination(sentence) for sentence in sentences}) == 1
    assert ["re-used" in sentence for sentence in sentences].count(False) == 1
    assert len(list((tmp_path / "store").glob("release_request/*/payload-*"))) == 1
    assert list((tmp_path / "store/work").glob("*/claim")) == []


@pytest.fixture
def work(tmp_path) -> Path:
    """The work folder of FORM's release request."""
    run(tmp_path, FORM)
    key = next((tmp_path / "store/release_request").iterdir())
    shutil.rmtree(tmp_path / "store/release_request")
    return tmp_path / "store/work" / key.name


def line_with(process, text: str) -> str:
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"the process ended without saying {text!r}")


def test_who_comes_second_says_whom_it_waits_for_and_goes_on_when_the_first_gave_up(
    tmp_path, work
) -> None:
    first = Claimant(pid=4711, since="2026-01-31T10:00:00Z", release_id="manual-1")
    with claimed(work, first, print):
        process, said = start(tmp_path, "second")
        line = line_with(process, "waits for")
        assert process.poll() is None
    assert "process 4711 of release manual-1, since 2026-01-31T10:00:00Z makes" in line
    assert process.wait(60) == 0
    assert "re-used" not in said.read_text()  # nobody had sealed it


HOLDER = """
import sys, time
from pathlib import Path
from tasks.adapters.claims import Claimant, claimed
with claimed(Path(sys.argv[1]), Claimant.this_process("r"), print):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_claim_ends_with_its_process_killed_or_not(tmp_path, work) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(work)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    line_with(holder, "held")
    process, said = start(tmp_path, "second")
    line_with(process, f"process {holder.pid} of release r")
    holder.kill()
    holder.wait()
    assert process.wait(60) == 0
    assert parse_termination(said.read_text()) is not None


def test_a_claim_on_a_folder_that_was_removed_meanwhile_is_taken_anew(tmp_path) -> None:
    work, waited = tmp_path / "work", threading.Event()

    def second() -> str:
        with claimed(work, Claimant.this_process(None), lambda _holder: waited.set()):
            return (work / "claim").read_text()

    with ThreadPoolExecutor(1) as pool:
        with claimed(work, Claimant.this_process(None), print):
            found = pool.submit(second)
            assert waited.wait(10)
            shutil.rmtree(work)  # as who has sealed does
        assert str(os.getpid()) in found.result(10)


def test_a_process_that_loses_to_another_machine_ends_with_the_winners_verdict(
    tmp_path, monkeypatch
) -> None:
    """Without a common lock both work; put-if-absent decides, and a refusal that was sealed counts."""
    here, there = (
        World(StageRequest(stage=Stage.GATE_ARTIFACT, store_url=f"file://{tmp_path}/store"), env)
        for env in ({"HEADRACE_WORK": str(tmp_path / name)} for name in ("here", "there"))
    )
    recipe = Recipe(
        kind=ArtifactKind.GATE_REPORT, stage=Stage.GATE_ARTIFACT, inputs={}, config={}, code="c"
    )

    def judged(passed: bool) -> Path:
        folder = tmp_path / f"report-{passed}"
        folder.mkdir()
        check = GateCheck(
            name="p",
            expected="a",
            found="b",
            severity="critical",
            passed=passed,
            expectation="expect_column_values_to_be_in_set",
            limits={"value_set": ["a"]},
            measured={"value": "a" if passed else "b"},
        )
        report = GateReport(
            artifact="feature_set/" + "a" * 64,
            content="0" * 64,
            kind=ArtifactKind.FEATURE_SET,
            checks=(check,),
        )
        (folder / "report.json").write_text(report.to_text())
        return folder

    def while_another_seals(context) -> Outcome:
        there.store.seal(recipe, judged(passed=False), {})
        return Outcome(sentence="passed here", refused=False)

    context = SimpleNamespace(out=judged(passed=True), ranks=ALONE)
    manifest, outcome = _make(SimpleNamespace(run=while_another_seals), context, recipe, here)
    assert outcome.refused
    folder = tmp_path / "store" / str(manifest.address)
    assert [path.name for path in folder.glob("payload-*")] == [manifest.payload_folder]


def test_progress_is_said_seconds_apart_but_no_news_is_dropped() -> None:
    said: list[str] = []
    log = LineLog(subject=Subject(process="train_model"), speak=said.append)
    progress = PlainProgress(Stage.TRAIN_MODEL, log)

    for sentence, fraction in (
        ("fitting popularity", 0.0),
        ("fitting markov", 0.5),
        ("goes on after epoch 1", None),
        ("goes on after epoch 1", None),
        ("epoch 2, batch 1", 0.1),
        ("done", 1),
    ):
        progress(sentence, fraction)

    assert [line.removeprefix("train_model:").strip() for line in said] == [
        "0% fitting popularity",
        "goes on after epoch 1",
        "100% done",
    ]


def test_the_time_between_checkpoints_is_read_from_the_environment(tmp_path) -> None:
    request = StageRequest(stage=Stage.TRAIN_MODEL, store_url=f"file://{tmp_path}/store")
    assert World(request, {}).checkpoint_seconds == 30
    assert World(request, {"HEADRACE_CHECKPOINT_SECONDS": "0.5"}).checkpoint_seconds == 0.5


def test_a_crash_repeats_no_credential(tmp_path, monkeypatch, capsys) -> None:
    key_id = "AKIAIOSFODNN7EXAMPLE"
    log, said = tmp_path / "headrace.jsonl", tmp_path / "termination"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key_id)
    monkeypatch.setenv("HEADRACE_LOG_FILE", str(log))
    monkeypatch.setenv("HEADRACE_TERMINATION_LOG", str(said))

    def crash(*_: object) -> None:
        message = f"{key_id} is not known here"
        raise RuntimeError(message)

    monkeypatch.setattr("tasks.__main__.run_stage", crash)
    asked = tmp_path / "request.json"
    request = StageRequest(stage=Stage.BUILD_FEATURES, store_url=f"file://{tmp_path}/store")
    asked.write_text(request.to_text())
    assert main(["build_features", str(asked)]) == ExitCode.CRASHED
    assert said.read_text() == "crashed: RuntimeError: <AWS_ACCESS_KEY_ID> is not known here"
    shown = capsys.readouterr()
    for text in (log.read_text(), shown.out, shown.err):
        assert "RuntimeError: <AWS_ACCESS_KEY_ID> is not known here" in text
        assert key_id not in text
