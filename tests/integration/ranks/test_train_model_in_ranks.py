"""`train_model` under torchrun: rank 0 alone seals, both end with 0 and the same evidence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.__main__ import World
from tasks.adapters.artifact_store import Recipe
from tasks.contracts.artifacts import Manifest, parse_termination
from tasks.contracts.gate_reports import GateCheck, GateReport
from tasks.contracts.requests import ReleaseRequest, plan_named
from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import ArtifactKind, Stage
from tests.integration.kills.driver import problems
from tests.ports import free_port
from tests.unit.training.conftest import shop

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@dataclass
class Shop:
    """A store with gated features and a release request, and the request of train_model on them."""

    folder: Path
    recipe: str = "blended_transformer"
    dataset: str = "complete-journey"

    def __post_init__(self) -> None:
        self.world = World(
            StageRequest(stage=Stage.TRAIN_MODEL, store_url=f"file://{self.folder}/store"), {}
        )
        made = self.folder / "made"
        for name in ("features", "report", "release"):
            (made / name).mkdir(parents=True)
        shop().save(made / "features" / "interactions.npz")
        features = self._seal(ArtifactKind.FEATURE_SET, Stage.BUILD_FEATURES, made / "features")
        (made / "report" / "report.json").write_text(_passed(features).to_text())
        report = self._seal(ArtifactKind.GATE_REPORT, Stage.GATE_ARTIFACT, made / "report")
        (made / "release" / "request.json").write_text(
            _release(self.recipe, self.dataset).to_text()
        )
        release = self._seal(ArtifactKind.RELEASE_REQUEST, Stage.REQUEST_RELEASE, made / "release")
        request = StageRequest(
            stage=Stage.TRAIN_MODEL,
            store_url=f"file://{self.folder}/store",
            release=str(release.address),
            reads={"features": str(features.address)},
            gates={"features": str(report.address)},
        )
        (self.folder / "request.json").write_text(request.to_text())

    def _seal(self, kind: ArtifactKind, stage: Stage, folder: Path) -> Manifest:
        recipe = Recipe(kind=kind, stage=stage, inputs={}, config={}, code="c" * 64)
        return self.world.store.seal(recipe, folder, {})

    def start(self, stage: str = "train_model") -> list[subprocess.Popen[str]]:
        """Start both ranks as the pods of a group start them."""
        told = {
            **{name: text for name, text in os.environ.items() if "HEADRACE" not in name},
            "PET_NNODES": "2",
            "PET_NPROC_PER_NODE": "1",
            "PET_RDZV_BACKEND": "static",
            "PET_RDZV_ENDPOINT": f"127.0.0.1:{free_port()}",
            "PET_RDZV_ID": "group-a-1",
            "PET_RDZV_CONF": "timeout=120",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        words = ("-m", "tasks.training.launch", "tasks", stage, str(self.folder / "request.json"))
        return [
            subprocess.Popen(
                [sys.executable, *words],
                env={
                    **told,
                    "PET_NODE_RANK": str(rank),
                    "HEADRACE_TERMINATION_LOG": str(self.folder / f"said-{rank}"),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=ROOT,
            )
            for rank in (0, 1)
        ]

    def run(self, stage: str = "train_model") -> tuple[list[int], list[str]]:
        """Return exit codes and last sentences by rank."""
        started = self.start(stage)
        said = [one.communicate(timeout=300)[0] for one in started]
        last = [self.folder / f"said-{rank}" for rank in (0, 1)]
        assert all(one.exists() for one in last), "\n".join(said)[-4000:]
        return [one.returncode for one in started], [one.read_text() for one in last]

    def sealed(self) -> list[Path]:
        return sorted((self.folder / "store" / "trained_model").glob("*/manifest.json"))


def _passed(features: Manifest) -> GateReport:
    check = GateCheck(
        name="price",
        expected="min 0",
        found="0.5",
        severity="critical",
        passed=True,
        expectation="expect_column_values_to_be_between",
        limits={"min_value": 0},
        measured={"rows": 1, "unexpected": 0, "missing": 0},
    )
    return GateReport(
        artifact=str(features.address),
        content=features.content,
        kind=features.kind,
        checks=(check,),
    )


def _release(recipe: str, dataset: str) -> ReleaseRequest:
    return ReleaseRequest(
        release_id="r1",
        model="recommender",
        dataset=dataset,
        as_of="2018-01-02T00:00:00Z",
        recipe=recipe,
        compression="none",
        plan=plan_named("replay"),
    )


def test_two_ranks_make_one_artifact_and_both_say_so(tmp_path: Path) -> None:
    here = Shop(tmp_path)

    codes, said = here.run()

    assert codes == [0, 0], said
    (manifest,) = here.sealed()
    assert json.loads(manifest.read_text())["config"]["ranks"] == 2
    evidence = [parse_termination(one) for one in said]
    assert evidence[0] is not None
    assert evidence[0] == evidence[1]
    assert evidence[0].address.key == manifest.parent.name
    assert "| rank 1 of 2: blended_transformer: select NDCG@10" in said[1]
    facts = json.loads((manifest.parent / "facts.json").read_text())
    assert facts["ranks"] == 2
    assert problems(tmp_path / "store") == []
    assert list((tmp_path / "store" / "work").glob("*/checkpoints")) == []

    codes, said = here.run()  # again: both answer from the seal

    assert codes == [0, 0], said
    assert "re-used: blended_transformer" in said[0]
    assert "rank 1 of 2: re-used: blended_transformer" in said[1]


def test_a_rank_that_dies_fails_the_other_and_nothing_is_sealed(tmp_path: Path) -> None:
    here = Shop(tmp_path)
    started = here.start()
    claim, deadline = tmp_path / "store" / "work", time.monotonic() + 120
    while not list(claim.glob("*/claim")):  # both have met: rank 0 begins
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (worker,) = _children(started[1].pid)
    os.kill(worker, signal.SIGKILL)

    said = [one.communicate(timeout=120)[0] for one in started]

    assert [one.returncode for one in started] == [1, 128 + signal.SIGKILL], said
    assert here.sealed() == []


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in found]


def test_a_stage_that_shares_nothing_refuses_ranks(tmp_path: Path) -> None:
    here = Shop(tmp_path)
    request = json.loads((tmp_path / "request.json").read_text())
    (tmp_path / "request.json").write_text(json.dumps({**request, "stage": "compress_model"}))

    codes, said = here.run("compress_model")

    assert codes == [4, 4]
    assert said[0].startswith("compress_model: expected one process, found WORLD_SIZE=2")


def test_a_picture_recipe_in_ranks_is_refused_by_both_in_the_same_words(tmp_path: Path) -> None:
    here = Shop(tmp_path, recipe="residual_picture_net", dataset="fashion-mnist")

    codes, said = here.run()

    assert codes == [4, 4], said
    for one in said:
        assert one.startswith("train_model: expected one rank for the picture recipe"), one
    assert here.sealed() == []
