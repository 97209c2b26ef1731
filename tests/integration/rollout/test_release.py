"""A whole rollout: stages, replayed users, a real Envoy, and slots whose answers we choose."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contracts.artifacts import Address, Manifest
from tasks.contracts.bake import used_up_path
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json
from tasks.contracts.requests import PLANS, ReleaseRequest
from tasks.contracts.stage_io import Outcome, StageContext, StageInput, StageModule
from tasks.contracts.stages import ArtifactKind, Stage
from tasks.models.interactions import EventRows, Interactions
from tasks.rollout import replay
from tasks.rollout.exposure_files import read_exposures
from tasks.rollout.judge import verify_verdict
from tasks.rollout.phases import Phase
from tasks.stages import judge_step, promote_release, roll_back_release, shift_traffic
from tests.integration.rollout.conftest import Deployment, eventually

pytestmark = pytest.mark.integration
KEY = "0" * 64
USERS = 1200


def liked(taste: str) -> Interactions:
    """1200 users with two earlier baskets and three in the canary period: always what they like.

    The stub slots recommend an item named like their colour, so `taste` says who hits.
    """
    user = np.repeat(np.arange(USERS), 5)
    basket = np.tile(np.arange(5), USERS)
    names = np.array(["blue", "green", "violet"])
    other = 1 + int(np.flatnonzero(names == "violet")[0])
    wanted = 1 + int(np.flatnonzero(names == taste)[0])
    odd = (user * 7 + basket * 3) % 5 == 0  # one in five chooses something else
    return Interactions.from_rows(
        EventRows(
            item_ids=names,
            user_ids=np.array([f"user-{number:04d}" for number in range(USERS)]),
            user=user,
            item=np.where(odd, other, wanted),
            basket=basket,
            event_type=np.full(len(user), 3),
            time=1_000_000 + basket * 1000 + user,
            period=np.where(basket < 2, 0, 3),
            repeats_allowed=True,
            baskets=True,
            order_only=False,
        )
    )


def request() -> ReleaseRequest:
    steps = tuple(replace(step, bake_seconds=120) for step in PLANS["replay"].steps)
    # Stub slots on a busy machine: the promise under test is not their speed.
    plan = replace(PLANS["replay"], steps=steps, min_latency_bound_ms=2000.0)
    return ReleaseRequest(
        release_id="second",
        model="shop",
        dataset="complete-journey",
        as_of="2026-01-01T00:00:00Z",
        recipe="popularity",
        compression="int8",
        plan=plan,
    )


def as_input(kind: ArtifactKind, path: Path) -> StageInput:
    manifest = Manifest(
        kind=kind,
        key=KEY,
        stage=Stage.STAGE_BUNDLE,
        inputs={},
        config={},
        code=KEY,
        files=(),
        content=KEY,
    )
    return StageInput(address=str(Address(kind=kind, key=KEY)), manifest=manifest, path=path)


class Pipeline:
    """Runs stages one after the other as the DAG does."""

    def __init__(self, deployment: Deployment, interactions: Interactions) -> None:
        self.deployment = deployment
        self.folder = deployment.folder / "stages"
        slot, features = self.folder / "slot", self.folder / "features"
        slot.mkdir(parents=True)
        features.mkdir()
        (slot / "infra.json").write_text(json.dumps({"latency_ms": {"stable": {"p99": 5.0}}}))
        interactions.save(features / "interactions.npz")
        self.slot = as_input(ArtifactKind.STAGED_SLOT, slot)
        self.features = as_input(ArtifactKind.FEATURE_SET, features)

    def run(
        self, module: StageModule, name: str, inputs: dict[str, StageInput], **settings: Json
    ) -> tuple[Path, Outcome]:
        out = self.folder / name
        out.mkdir(exist_ok=True)
        context = StageContext(
            inputs=inputs,
            out=out,
            work=out,
            progress=lambda _sentence, _share: None,
            store_url=f"file://{self.deployment.folder}/store",
            release=request(),
            settings=settings,
            state_dir=self.deployment.state_dir,
        )
        module.configure(context)
        return out, module.run(context)

    def shift(self, step: int) -> Path:
        inputs = {"slot": self.slot, "features": self.features}
        return self.run(shift_traffic, f"shift-{step}", inputs, step=step)[0]

    def bake(self, step: int) -> None:
        mark = used_up_path(self.deployment.state_dir, "shop", "second", step)
        eventually(mark.exists, seconds=120)

    def judge(self, step: int, shifted: Path) -> dict[str, Any]:
        inputs = {"step": as_input(ArtifactKind.TRAFFIC_STEP, shifted)}
        out, _ = self.run(judge_step, f"judge-{step}", inputs)
        assert verify_verdict(out) == []
        verdict: dict[str, Any] = json.loads((out / "verdict.json").read_text())
        return verdict

    def step(self, number: int) -> dict[str, Any]:
        shifted = self.shift(number)
        self.bake(number)
        return self.judge(number, shifted)


@pytest.fixture
def shopping(deployment: Deployment) -> Iterator[Deployment]:
    deployment.first_release()
    deployment.state.reserve_slot("second")
    stop = threading.Event()
    arguments = (deployment.state_dir, deployment.url, stop, 4)
    thread = threading.Thread(target=replay.run, args=arguments, daemon=True)
    thread.start()
    yield deployment
    stop.set()
    thread.join()


def test_a_better_candidate_is_shipped_on_what_users_really_chose(shopping: Deployment) -> None:
    pipeline = Pipeline(shopping, liked("green"))
    first = pipeline.step(1)
    assert first["decision"] == "proceed", first["sentences"]
    second = pipeline.step(2)
    assert second["decision"] == "proceed", second["sentences"]
    third = pipeline.step(3)
    assert third["decision"] == "ship", third["sentences"]
    effect = third["effect"]
    assert effect["stable_mean"] == 0.0
    assert 0.7 < effect["candidate_mean"] < 0.9
    # Users who met the candidate at 25 % are not new at 50 %: a quarter of the users is left.
    assert 0.18 * USERS < effect["candidate_users"] < 0.32 * USERS
    out, outcome = pipeline.run(
        promote_release,
        "promote",
        {"slot": pipeline.slot, "verdict": as_input(ArtifactKind.STEP_VERDICT, pipeline.folder)},
    )
    assert "release 2 serves since" in outcome.sentence
    assert json.loads((out / "release.json").read_text())["release_number"] == 2
    eventually(lambda: shopping.ask("anybody").json()["outputs"]["items"] == [["green"]])
    assert shopping.state.verify() == []
    _every_request_once(shopping)


def _every_request_once(deployment: Deployment) -> None:
    folder = deployment.state_dir / "shop" / "traffic" / "r2"
    exposures = read_exposures(folder)
    outcomes = [json.loads(line) for line in (folder / "outcomes.jsonl").open()]
    assert len(outcomes) == len({line["request_id"] for line in outcomes}) == 3 * USERS
    joined = {line["request_id"]: line for line in exposures}
    assert all(joined[line["request_id"]]["variant"] == line["variant"] for line in outcomes)
    assert all(joined[line["request_id"]]["user"] == line["user"] for line in outcomes)
    for path in (folder / "exposures").iterdir():
        assert "user-0" not in path.read_text()
    assert "user-0" not in (folder / "outcomes.jsonl").read_text()


def test_a_worse_candidate_keeps_its_guardrails_and_loses_its_share(shopping: Deployment) -> None:
    pipeline = Pipeline(shopping, liked("blue"))
    assert [pipeline.step(number)["decision"] for number in (1, 2, 3)] == [
        "proceed",
        "proceed",
        "roll_back",
    ]
    assert shopping.state.peek().status.share == 0
    with pytest.raises(BadRequestError, match="verdict ship"):
        pipeline.run(promote_release, "promote", {"slot": pipeline.slot})
    _, outcome = pipeline.run(roll_back_release, "rollback", {})
    assert "release 1 serves" in outcome.sentence
    assert shopping.state.peek().status.phase is Phase.SERVING


def test_a_failing_candidate_is_taken_out_after_the_first_step_and_no_user_noticed(
    shopping: Deployment,
) -> None:
    shopping.candidate.mood.status = 500
    pipeline = Pipeline(shopping, liked("green"))
    verdict = pipeline.step(1)
    assert verdict["decision"] == "roll_back"
    failed = [check["name"] for check in verdict["checks"] if check["passed"] is False]
    assert failed == ["errors"]
    assert verdict["variants"]["candidate"]["failed"] == 0
    assert verdict["variants"]["stable"]["failed"] == 0
    with pytest.raises(BadRequestError, match="needs the verdict proceed on step 1"):
        pipeline.shift(2)


def test_shoppers_wait_while_a_rollout_is_paused_and_ask_nothing_twice(
    shopping: Deployment,
) -> None:
    pipeline = Pipeline(shopping, liked("green"))
    shifted = pipeline.shift(1)
    outcomes = shopping.state_dir / "shop" / "traffic" / "r2" / "outcomes.jsonl"
    eventually(outcomes.exists, seconds=30)
    shopping.state.lapse("second", shopping.state.peek().lease.renewals)
    eventually(lambda: shopping.ask("x").headers.get("x-headrace-step") is None)
    assert not used_up_path(shopping.state_dir, "shop", "second", 1).exists()
    shopping.state.renew("second", 60)
    pipeline.bake(1)
    verdict = pipeline.judge(1, shifted)
    assert verdict["decision"] == "proceed", verdict["sentences"]
    asked = [json.loads(line)["request_id"] for line in outcomes.open()]
    assert len(asked) == len(set(asked)) == int(0.15 * 3 * USERS)
