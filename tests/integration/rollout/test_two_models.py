"""Two models side by side: real `headrace serve` slots, a real Envoy, one keeper, one store."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS, ReleaseRequest
from tasks.contracts.stage_io import StageContext
from tasks.rollout import keeper
from tasks.rollout.assignment import bucket_of
from tasks.rollout.envoy import envoy_command, router_files, write_bootstrap
from tasks.rollout.phases import Decision
from tasks.rollout.state import ModelState, open_state
from tasks.serving import protos
from tasks.stages import stage_bundle
from tests.integration.rollout.conftest import eventually
from tests.integration.rollout.upstreams import METHOD
from tests.integration.serving.conftest import models, start_server  # noqa: F401  fixtures
from tests.integration.serving.running_server import RunningServer
from tests.ports import free_port

pytestmark = [pytest.mark.integration, pytest.mark.trial]
PLAN = PLANS["replay"]
NAMES = ("shop", "search")
PROCEED = Decision.PROCEED


@dataclass
class TwoModels:
    """Both models below one state folder, behind one router."""

    folder: Path
    port: int
    bundle: Path
    start_server: Callable[..., RunningServer]
    servers: dict[tuple[str, str], RunningServer] = field(default_factory=dict)
    client: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=30))

    def state(self, model: str) -> ModelState:
        return open_state(self.folder / "state", model, ObjectStore(f"file://{self.folder}/store"))

    def start_slots(self, model: str) -> None:
        slots = {}
        for colour in ("blue", "green"):
            directory = self.folder / "state" / model / "slots" / colour
            directory.mkdir(parents=True)
            server = self.start_server(
                f"--model_name={model}",
                f"--model_base_path={directory}",
                "--max_num_load_retries=0",
                ready=False,
            )
            self.servers[model, colour] = server
            slots[colour] = {"grpc": server.port, "rest": server.rest_port}
            slots[colour]["directory"] = str(directory)
        record = {"format": "slots/1", "model": model, "slots": slots}
        (self.folder / "state" / model / "slots.json").write_text(json.dumps(record))

    def stage(self, model: str, release_id: str) -> Any:
        """Run the stage `stage_bundle` as the DAG does."""
        out = self.folder / f"out-{release_id}"
        out.mkdir()
        release = ReleaseRequest(
            release_id=release_id,
            model=model,
            dataset="complete-journey",
            as_of="2026-01-31T00:00:00Z",
            recipe="popularity",
            compression="none",
            plan=PLAN,
        )
        inputs: Any = {
            name: SimpleNamespace(address=f"{kind}/{'b' * 64}", path=self.bundle)
            for name, kind in (
                ("bundle", "serving_bundle"),
                ("evaluation", "evaluation"),
                ("events", "validated_events"),
            )
        }
        context = StageContext(
            inputs=inputs,
            out=out,
            work=out,
            progress=lambda _sentence, _fraction: None,
            store_url=f"file://{self.folder}/store",
            release=release,
            state_dir=self.folder / "state",
        )
        stage_bundle.run(context)
        return json.loads((out / "slot.json").read_text())

    def ask(self, model: str, user: str) -> httpx.Response:
        body = {"inputs": {"history": [["item-1"]], "steps_ago": [[1]]}}
        return self.client.post(
            f"http://127.0.0.1:{self.port}/v1/models/{model}:predict",
            json=body,
            headers={"x-model": model, "x-user-id": user},
        )

    def ask_grpc(self, model: str, user: str) -> int:
        """Ask by gRPC under the model's own authority; return the version that answered."""
        request = protos.predict.PredictRequest()
        request.model_spec.name = model
        for name, value in (("history", b"item-1"), ("steps_ago", None)):
            tensor = request.inputs[name]
            tensor.dtype = 7 if value else 9  # DT_STRING, DT_INT64
            tensor.tensor_shape.dim.add(size=1)
            tensor.tensor_shape.dim.add(size=1)
            if value:
                tensor.string_val.append(value)
            else:
                tensor.int64_val.append(1)
        options = [("grpc.default_authority", f"{model}.headrace")]
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", options=options) as channel:
            call = channel.unary_unary(METHOD)
            answer = call(request.SerializeToString(), timeout=20, metadata=[("x-user-id", user)])
        return int(protos.predict.PredictResponse.FromString(answer).model_spec.version.value)

    def variants(self, model: str, users: list[str]) -> dict[str, str]:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda user: self.ask(model, user), users))
        assert {answer.status_code for answer in answers} == {200}, answers[0].text
        assert {answer.headers["x-headrace-model"] for answer in answers} == {model}
        found = [answer.headers["x-headrace-variant"] for answer in answers]
        return dict(zip(users, found, strict=True))

    def settled(self, model: str) -> bool:
        record = self.state(model).peek()
        wanted = f"{record.rollout}:{record.status.step}" if record.status.share else None
        try:
            answer = self.ask(model, "anybody")
        except httpx.TransportError:
            return False
        ready = answer.status_code == 200
        return ready and answer.headers.get("x-headrace-step") == wanted


@pytest.fixture
def two(
    tmp_path: Path,
    models: Path,  # noqa: F811
    start_server: Callable[..., RunningServer],  # noqa: F811
) -> Iterator[TwoModels]:
    state_dir = tmp_path / "state"
    made = TwoModels(tmp_path, free_port(), models / "shop/bundle", start_server)
    for model in NAMES:
        made.start_slots(model)
    files = router_files(state_dir)
    write_bootstrap(files, port=made.port, admin_port=free_port(), host="127.0.0.1")
    with (tmp_path / "envoy.log").open("wb") as log:
        envoy = subprocess.Popen(envoy_command(files), stdout=log, stderr=log)
    stop = threading.Event()
    thread = threading.Thread(target=keeper.run, args=(state_dir, stop, 0.05), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join()
        envoy.terminate()
        envoy.wait()
        made.client.close()


def test_two_models_are_released_at_once_and_neither_meets_the_others_users_or_end(
    two: TwoModels,
) -> None:
    with ThreadPoolExecutor(2) as pool:  # both first releases at the same time
        first = list(pool.map(lambda model: two.stage(model, f"{model}-1"), NAMES))
    assert [(slot["model"], slot["colour"], slot["version"]) for slot in first] == [
        ("shop", "blue", 1),
        ("search", "blue", 1),
    ]
    for model in NAMES:
        two.state(model).promote(f"{model}-1")
    eventually(lambda: all(two.settled(model) for model in NAMES), 30)

    with ThreadPoolExecutor(2) as pool:  # and both candidates
        second = list(pool.map(lambda model: two.stage(model, f"{model}-2"), NAMES))
    assert [(slot["colour"], slot["version"]) for slot in second] == [("green", 2)] * 2
    for model, share in zip(NAMES, ((500,), (500, 2500)), strict=True):
        for step in range(1, len(share) + 1):
            if step > 1:
                two.state(model).record_verdict(f"{model}-2", step - 1, PROCEED, numbers={})
            two.state(model).begin_step(f"{model}-2", step, PLAN, per_try_timeout_ms=2000)
    eventually(lambda: all(two.settled(model) for model in NAMES), 30)

    users = [f"u{number}" for number in range(200)]
    for model, cut in (("shop", 500), ("search", 2500)):
        salt = two.state(model).peek().salt
        assert salt is not None
        expected = {
            user: "candidate" if bucket_of(salt, user) < cut else "stable" for user in users
        }
        assert two.variants(model, users) == expected
        user = next(user for user in users if expected[user] == "candidate")
        assert two.ask_grpc(model, user) == 2
        user = next(user for user in users if expected[user] == "stable")
        assert two.ask_grpc(model, user) == 1
    assert two.state("shop").peek().salt != two.state("search").peek().salt

    # A second release of one model is refused; the other model takes its own next one.
    with pytest.raises(BadRequestError, match="release shop-2 is in progress"):
        two.stage("shop", "shop-3")

    # The end of one is no news to the other.
    before = two.variants("search", users)
    two.state("shop").roll_back("shop-2")
    eventually(lambda: two.settled("shop"), 30)
    assert set(two.variants("shop", users).values()) == {"stable"}
    assert two.variants("search", users) == before
    assert two.state("search").peek().release_id == "search-2"
    for model in NAMES:
        assert two.state(model).verify() == []
        assert {entry.model for entry in two.state(model).history()} == {model}


def test_a_broken_state_record_of_one_model_leaves_the_other_served(two: TwoModels) -> None:
    for model in NAMES:
        two.stage(model, f"{model}-1")
        two.state(model).promote(f"{model}-1")
    eventually(lambda: all(two.settled(model) for model in NAMES), 30)
    two.state("shop").path.write_text("{")
    two.stage("search", "search-2")
    two.state("search").begin_step("search-2", 1, PLAN, per_try_timeout_ms=2000)
    eventually(lambda: two.settled("search"), 30)
    assert two.ask("shop", "ann").status_code == 200  # by its last routes
