"""A model that reads event types, from its training's files to a real server: every client is answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tasks.adapters.tf_serving import TfServingRest
from tasks.bundling.served_model import LoadedModel
from tasks.contracts.stages import ArtifactKind
from tasks.gates.bounds import BundleBounds, CompressionBounds
from tasks.gates.checks import Payload
from tasks.gates.run_gate import run_gate
from tasks.serving.golden_answers import read_golden
from tasks.serving.slot_check import Staged, check_slot
from tasks.serving.slot_folder import Slot
from tasks.serving.version_states import VersionId
from tests.integration.bundling import small_release
from tests.integration.serving.running_server import RunningServer

MODEL = "shop"
pytestmark = [pytest.mark.trial, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release whose features hold four types of events."""
    folder = tmp_path_factory.mktemp("typed")
    small_release.make(folder, typed=True)
    run = small_release.run
    run("compress_model", folder, "compressed", model="trained", features="features")
    run("bundle_model", folder, "bundle", model="compressed")
    run("evaluate_model", folder, "evaluation", bundle="bundle", features="features")
    return folder


def record(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture
def server(release: Path, tmp_path: Path, start_server: Callable[..., RunningServer]) -> Any:
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "1").symlink_to(release / "bundle" / "model")
    flags = f"--model_name={MODEL}", f"--model_base_path={tmp_path / 'versions'}"
    return start_server(*flags)


def test_every_golden_request_is_certified_with_types_and_without(release: Path) -> None:
    parity = record(release / "bundle" / "parity.json")
    for certificate in (parity, parity["next_event"]):
        assert certificate["requests"] == certificate["agreeing"] == 60
        assert certificate["made_up"]["agreeing"] == 4
    assert parity["next_event"]["worst_next_type_difference"] < 1e-6
    assert record(release / "bundle" / "bundle.json")["next_event"] == {
        "event_types": ["view", "favourite", "cart", "purchase"]
    }
    assert "next_event" not in parity["baselines"]["popularity"]


def test_the_evaluation_asks_with_types_and_tells_what_other_clients_get(release: Path) -> None:
    summary = record(release / "evaluation" / "summary.json")
    told = summary["event_types"]
    assert told["ndcg_without_types"]["mean"] != summary["models"]["candidate"]["ndcg"]["mean"]
    assert set(told["next_type"]) == {"candidate", "markov_of_types", "shares_of_types"}
    assert told["next_type"]["shares_of_types"]["bits"] == pytest.approx(2.0, abs=0.1)
    assert told["next_type"]["candidate"]["events"] > 200


def test_every_warmup_record_is_a_request_that_the_model_answers(release: Path) -> None:
    folder = release / "bundle" / "model"
    asked = set()
    with LoadedModel(folder) as model:
        path = str(folder / "assets.extra" / "tf_serving_warmup_requests")
        for record_bytes in tf.data.TFRecordDataset(path).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record_bytes)
            request = log.predict_log.request
            inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            model.ask(request.model_spec.signature_name, inputs)
            asked.add((request.model_spec.signature_name, "event_types" in inputs))
    assert ("next_event", True) in asked
    assert ("serving_default", False) in asked


def test_a_real_server_gives_every_golden_answer_by_both_protocols(
    release: Path, server: RunningServer, tmp_path: Path
) -> None:
    slot = Slot(
        colour="blue",
        host="127.0.0.1",
        grpc=server.port,
        rest=server.rest_port,
        directory=tmp_path / "versions",
    )
    staged = Staged(slot=slot, version=VersionId(name=MODEL, version=1))
    golden = list(read_golden(release / "bundle"))
    found = check_slot(staged, staged, golden, lambda _sentence, _share: None, TfServingRest)

    assert len(golden) == 120
    for protocol in (found.grpc, found.rest):
        assert (protocol.asked, protocol.wrong, protocol.failed) == (120, 0, 0), protocol.examples
    assert found.latency["rest"]["stable"].requests == 60


def test_clients_of_every_kind_are_answered_by_rest(server: RunningServer) -> None:
    history = [["item-3", "item-9"]]

    def ask(**body: Any) -> Any:
        return server.http.post(f"/v1/models/{MODEL}:predict", json=body)

    plain = ask(inputs={"history": history, "steps_ago": [[2, 1]]})
    assert set(plain.json()["outputs"]) == {"items", "scores"}

    sent = {"history": history, "steps_ago": [[2, 1]], "event_types": [["view", "purchase"]]}
    typed = ask(signature_name="next_event", inputs=sent).json()["outputs"]
    assert set(typed) == {"items", "scores", "next_types"}
    assert sum(typed["next_types"][0]) == pytest.approx(1.0, abs=1e-5)

    unknown = ask(signature_name="next_event", inputs={**sent, "event_types": [["stare", ""]]})
    assert unknown.json()["outputs"]["scores"] == plain.json()["outputs"]["scores"]
    assert typed["scores"] != plain.json()["outputs"]["scores"]

    for wrong in ([[1, 2]], [["view"] * 3], [["view"], ["cart", "view"]]):
        refused = ask(signature_name="next_event", inputs={**sent, "event_types": wrong})
        assert refused.status_code == 400, wrong
        assert len(refused.text) < 2000


@pytest.mark.parametrize(
    ("kind", "name", "bounds"),
    (
        (
            ArtifactKind.COMPRESSED_MODEL,
            "compressed",
            CompressionBounds(compression="int8", recipe="typed", min_golden_requests=60),
        ),
        (
            ArtifactKind.SERVING_BUNDLE,
            "bundle",
            BundleBounds(compression="int8", min_golden_requests=60),
        ),
    ),
)
def test_its_gates_pass(release: Path, kind: ArtifactKind, name: str, bounds: Any) -> None:
    payload = Payload(path=release / name, compared={})
    address = f"{kind.value}/{'a' * 64}"
    report = run_gate(kind, bounds, payload, artifact=address, content="b" * 64)
    assert report.passed, report.sentence
