"""`headrace hotfix` and its stage, with real model servers, a sealed bundle and its gate report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.__main__ import World, run_stage
from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.cli.hotfix import hotfix
from tasks.contracts.artifacts import Address, Manifest
from tasks.contracts.errors import BadRequestError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.gate_reports import GateCheck, GateReport
from tasks.contracts.requests import PLANS
from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import STAGE_FACTS, ArtifactKind, Stage
from tasks.rollout.phases import Phase
from tasks.rollout.record import Colour
from tasks.rollout.state import Note
from tasks.serving.client import ServingClient
from tasks.serving.slot_folder import read_slots
from tasks.serving.version_states import State, VersionId
from tests.integration.serving.running_server import RunningServer
from tests.integration.serving.test_stage_bundle import MODEL, Stack

PARITY = GateCheck(
    name="parity",
    expected="min 1",
    found="as measured",
    severity="critical",
    passed=True,
    expectation="expect_column_values_to_be_between",
    limits={"min_value": 1, "max_value": None},
    measured={"rows": 30, "unexpected": 0, "missing": 0},
)
ROOT = Path(__file__).resolve().parents[3]
ANN = Note(who="person ann", why="prices were wrong")


class Shop(Stack):
    """An experiment in its first step, and a store with bundles."""

    def experiment(self, bundle: Path) -> None:
        self.start("blue", "green", "violet")
        self.run("first", bundle)
        self.state.promote("first")
        self.run("second", bundle)
        self.state.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=50)

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(ObjectStore(self.store_url), cache=self.folder / "cache")

    def sealed(self, bundle: Path, *, passed: bool | None) -> Address:
        """Seal a bundle and, unless `passed` is None, a gate report about it."""
        manifest = self._seal(Stage.BUNDLE_MODEL, bundle, {})
        if passed is not None:
            report = GateReport(
                artifact=str(manifest.address),
                content=manifest.content,
                kind=ArtifactKind.SERVING_BUNDLE,
                checks=(replace(PARITY, passed=passed),),
            )
            out = self.folder / "report"
            out.mkdir(exist_ok=True)
            (out / "report.json").write_text(report.to_text())
            (out / "report.html").write_text("<p>page</p>")
            self._seal(Stage.GATE_ARTIFACT, out, {"artifact": manifest})
        return manifest.address

    def _seal(self, stage: Stage, folder: Path, inputs: dict[str, Manifest]) -> Manifest:
        out = self.folder / f"seal-{stage.value}"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder, out)
        recipe = Recipe(
            kind=STAGE_FACTS[stage].produces,
            stage=stage,
            inputs={name: one.reference for name, one in inputs.items()},
            config={"from": str(folder)},
            code="c",
        )
        return self.store.seal(recipe, out, {})

    def hotfix(self, bundle: Address) -> list[str]:
        said: list[str] = []
        hotfix(self.state, self.store, bundle, ANN, said.append)
        return said

    def request(self, bundle: Address, run: str = "manual__1") -> StageRequest:
        """Return what the DAG asks of the stage."""
        who = f"person ann, run {run}"
        return StageRequest(
            stage=Stage.HOTFIX_STABLE,
            store_url=self.store_url,
            reads={"bundle": str(bundle)},
            settings={"model": MODEL, "reason": "prices were wrong", "requested_by": who},
        )

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HEADRACE_STATE": str(self.state_dir),
            "HEADRACE_WORK": str(self.folder / "work"),
            "HEADRACE_TERMINATION_LOG": str(self.folder / "said"),
        }

    def started(self, request: StageRequest) -> subprocess.Popen[bytes]:
        """Start the stage as both runtimes do, in a process of its own."""
        asked = self.folder / "request.json"
        asked.write_text(request.to_text())
        words = (sys.executable, "-m", "tasks", request.stage.value, str(asked))
        with (self.folder / "stage.log").open("ab") as log:
            return subprocess.Popen(words, cwd=ROOT, env=self.environment, stdout=log, stderr=log)

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.state.history() if "hotfix" in entry.kind]

    def available(self, colour: Colour, version: int) -> bool:
        slot = read_slots(self.state_dir / MODEL / "slots.json")[colour]
        with ServingClient(slot.grpc_address) as client:
            row = client.wait_available(VersionId(name=MODEL, version=version), 30)
        return row is not None and row.state is State.AVAILABLE


@pytest.fixture
def shop(tmp_path: Path, start_server: Callable[..., RunningServer], models: Path) -> Shop:
    made = Shop(tmp_path, start_server)
    made.experiment(models / "shop/bundle")
    return made


def test_a_gated_bundle_becomes_stable_while_the_experiment_goes_on(
    shop: Shop, models: Path
) -> None:
    said = shop.hotfix(shop.sealed(models / "shop/bundle", passed=True))
    assert "release 3 is stable since" in said[-1]
    assert "instead of 1; second keeps 5 % of users" in said[-1]
    record = shop.state.peek()
    assert (record.roles.stable, record.roles.previous) == (Colour.VIOLET, Colour.BLUE)
    assert (record.status.phase, record.status.share) == (Phase.STEPPING, 500)
    assert shop.available(Colour.VIOLET, 3)
    entry = shop.state.history()[-1]
    assert (entry.kind, entry.who, entry.why) == ("hotfixed", "person ann", "prices were wrong")
    again = shop.hotfix(shop.sealed(models / "shop/bundle", passed=True))  # the same command
    assert shop.state.history()[-1].sequence == entry.sequence
    assert again


@pytest.mark.parametrize(
    ("passed", "found"),
    (
        pytest.param(False, "only refusals", id="a bundle that its gate refused"),
        pytest.param(None, "none", id="a bundle that no gate has seen"),
    ),
)
def test_no_hotfix_without_a_passing_gate(
    shop: Shop, models: Path, passed: bool | None, found: str
) -> None:
    before = shop.state.peek().sequence
    with pytest.raises(
        BadRequestError, match=f"expected a passing gate report on it, found {found}"
    ):
        shop.hotfix(shop.sealed(models / "shop/bundle", passed=passed))
    assert shop.state.peek().sequence == before


def test_a_hotfix_that_does_not_load_or_answers_wrongly_leaves_stable_as_it_was(
    shop: Shop, models: Path, tmp_path: Path
) -> None:
    broken, wrong = tmp_path / "broken", tmp_path / "wrong"
    shutil.copytree(models / "shop/bundle", broken)
    (broken / "model/saved_model.pb").write_bytes(b"not a proto")
    shutil.copytree(models / "shop/bundle", wrong)
    first, *others = (wrong / "golden.jsonl").read_text().splitlines()
    record = json.loads(first)
    record["items"][0], record["items"][9] = record["items"][9], record["items"][0]
    (wrong / "golden.jsonl").write_text("\n".join([json.dumps(record), *others]))
    for bundle, said in ((wrong, "expected every golden answer"), (broken, "could not be staged")):
        with pytest.raises(BadRequestError, match=said):
            shop.hotfix(shop.sealed(bundle, passed=True))
        now = shop.state.peek()
        assert (now.roles.stable, now.hotfix, now.status.share) == (Colour.BLUE, None, 500)
    kinds = [entry.kind for entry in shop.state.history()]
    assert kinds[-4:] == ["hotfix_reserved", "hotfix_abandoned"] * 2
    shop.hotfix(shop.sealed(models / "shop/bundle", passed=True))
    assert shop.state.peek().roles.stable is Colour.VIOLET
    assert shop.available(Colour.VIOLET, 5)


def record_of(shop: Shop, request: StageRequest) -> tuple[dict[str, Any], str]:
    """Run the stage and return what it sealed, and its sentence."""
    manifest, outcome = run_stage(request, World(request, shop.environment))
    text = (shop.store.fetch(manifest) / "hotfix.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found, outcome.sentence


def test_the_stage_seals_what_it_did_and_names_the_person_of_the_run(
    shop: Shop, models: Path
) -> None:
    request = shop.request(shop.sealed(models / "shop/bundle", passed=True))
    found, sentence = record_of(shop, request)
    entry = shop.state.history()[-1]
    assert (entry.kind, entry.who, entry.why) == (
        *("hotfixed", "person ann, run manual__1"),
        "prices were wrong",
    )
    assert found["who"] == entry.who
    assert (found["release_number"], found["instead_of"], found["sequence"]) == (
        3,
        1,
        entry.sequence,
    )
    assert found["gate_report"].startswith("gate_report/")
    assert "second keeps 5 % of users" in sentence
    assert record_of(shop, request)[1].startswith("re-used: ")  # the task is cleared
    other, _ = record_of(shop, shop.request(Address.parse(request.reads["bundle"]), "manual__2"))
    assert other == found  # somebody was before this run, with the same bundle
    assert shop.state.history()[-1].sequence == entry.sequence
    assert shop.hotfix(Address.parse(request.reads["bundle"])) != []  # and the command: the same
    assert shop.kinds() == ["hotfix_reserved", "hotfixed"]


def test_the_stage_refuses_a_bundle_that_no_gate_passed_for_good(shop: Shop, models: Path) -> None:
    before = shop.state.peek().sequence
    stage = shop.started(shop.request(shop.sealed(models / "shop/bundle", passed=False)))
    assert stage.wait(120) == ExitCode.BAD_REQUEST
    assert "found only refusals" in (shop.folder / "said").read_text()
    assert shop.state.peek().sequence == before


def test_the_stage_killed_at_any_moment_and_run_again_ends_as_if_undisturbed(
    shop: Shop, models: Path
) -> None:
    request = shop.request(shop.sealed(models / "shop/bundle", passed=True))
    violet = shop.state_dir / MODEL / "slots" / "violet"
    output = shop.store.objects

    def reserved() -> bool:
        return shop.kinds() == ["hotfix_reserved"]

    moments: list[Callable[[], bool]] = [
        reserved,
        (violet / "3").exists,
        lambda: shop.kinds() == ["hotfix_reserved", "hotfixed"],
        lambda: bool(output.list("hotfix")),
    ]
    for moment in moments:
        stage = shop.started(request)
        while stage.poll() is None and not moment():
            time.sleep(0.002)
        stage.kill()
        stage.wait()
        now = shop.state.peek()
        # Whenever it died: stable is what it was, or the hotfix serves; the candidate is the same.
        stable = Colour.VIOLET if "hotfixed" in shop.kinds() else Colour.BLUE
        assert (now.roles.stable, now.roles.candidate) == (stable, Colour.GREEN)
        assert (now.status.phase, now.status.share) == (Phase.STEPPING, 500)
        assert shop.available(stable, 3 if stable is Colour.VIOLET else 1)
    assert shop.started(request).wait(120) == ExitCode.DONE
    assert shop.kinds() == ["hotfix_reserved", "hotfixed"]
    assert shop.available(Colour.VIOLET, 3)
    assert shop.state.verify() == []
