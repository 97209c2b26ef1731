"""A tiny release, sealed by hand, with a real state record and ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.cli.home import Home
from tasks.contracts.artifacts import Manifest
from tasks.contracts.gate_reports import GateCheck, GateReport
from tasks.contracts.requests import PLANS, ReleaseRequest
from tasks.contracts.stages import STAGE_FACTS, Stage
from tasks.rollout.state import ModelState, open_state

MODEL = "recommender"
READS: Mapping[Stage, tuple[Stage, ...]] = {
    Stage.INGEST_EVENTS: (),
    Stage.BUILD_FEATURES: (Stage.INGEST_EVENTS,),
    Stage.TRAIN_MODEL: (Stage.BUILD_FEATURES,),
    Stage.COMPRESS_MODEL: (Stage.TRAIN_MODEL, Stage.BUILD_FEATURES),
    Stage.BUNDLE_MODEL: (Stage.COMPRESS_MODEL,),
    Stage.EVALUATE_MODEL: (Stage.BUNDLE_MODEL, Stage.BUILD_FEATURES),
    Stage.STAGE_BUNDLE: (Stage.BUNDLE_MODEL, Stage.EVALUATE_MODEL, Stage.INGEST_EVENTS),
}
CHECK = GateCheck(
    name="price",
    expected="min 0",
    found="1.0",
    severity="critical",
    passed=True,
    expectation="expect_column_values_to_be_between",
)


@dataclass(kw_only=True)
class TinyReleases:
    """Seals releases into a store below `root`."""

    root: Path
    made: dict[str, dict[Stage, Manifest]] = field(default_factory=dict)

    @property
    def home(self) -> Home:
        return Home(root=self.root, store_url=f"file://{self.root}/store")

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(ObjectStore(self.home.store_url), cache=self.root / "cache")

    @property
    def state(self) -> ModelState:
        return open_state(self.home.state, MODEL, self.store.objects)

    def seal(
        self, stage: Stage, files: Mapping[str, str], inputs: Mapping[str, Manifest] | None = None
    ) -> Manifest:
        folder = self.root / "scratch" / f"{stage.value}-{len(list(self.root.glob('scratch/*')))}"
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        recipe = Recipe(
            kind=STAGE_FACTS[stage].produces,
            stage=stage,
            inputs={name: item.reference for name, item in (inputs or {}).items()},
            config={"files": dict(files)},
            code="c",
        )
        return self.store.seal(recipe, folder, {"seconds": 1.5, "started_at": 1_700_000_000.0})

    def gate(self, manifest: Manifest, *, passed: bool = True) -> Manifest:
        check = CHECK if passed else GateCheck(**{**vars(CHECK), "passed": False, "found": "-4.0"})
        report = GateReport(
            artifact=str(manifest.address),
            content=manifest.content,
            kind=manifest.kind,
            checks=(check,),
        )
        files = {"report.json": report.to_text(), "report.html": "<p>page</p>"}
        return self.seal(Stage.GATE_ARTIFACT, files, {"artifact": manifest})

    def make(self, release_id: str, *, text: str = "") -> dict[Stage, Manifest]:
        """Seal everything up to the staged slot, each artifact with its gate."""
        request = ReleaseRequest(
            release_id=release_id,
            model=MODEL,
            dataset="complete-journey",
            as_of="2018-01-02T00:00:00Z",
            recipe="popularity",
            compression="int8",
            plan=PLANS["replay"],
        )
        made = {
            Stage.REQUEST_RELEASE: self.seal(
                Stage.REQUEST_RELEASE, {"request.json": request.to_text()}
            )
        }
        for stage, reads in READS.items():
            inputs = {item.value: made[item] for item in reads}
            files = {"payload.txt": f"{stage.value} {text or release_id}", "deep/more.txt": "x"}
            made[stage] = self.seal(stage, files, inputs)
            if STAGE_FACTS[stage].gated:
                self.gate(made[stage])
        self.made[release_id] = made
        return made

    def promote(self, release_id: str, *, text: str = "") -> Manifest:
        """Seal a release and move the roles as the stages do."""
        made = self.make(release_id, text=text)
        bundle = str(made[Stage.BUNDLE_MODEL].address)
        events = str(made[Stage.INGEST_EVENTS].address)
        # The first may be promoted at once, and others here: what is tested lies elsewhere.
        self.state.reserve_slot(release_id, bundle=bundle, events=events)
        entry = self.state.promote(release_id)
        record = {
            "format": "release/1",
            "model": MODEL,
            "release_id": release_id,
            "release_number": entry.release_number,
        }
        made[Stage.PROMOTE_RELEASE] = self.seal(
            Stage.PROMOTE_RELEASE,
            {"release.json": json.dumps(record)},
            {"slot": made[Stage.STAGE_BUNDLE]},
        )
        return made[Stage.PROMOTE_RELEASE]

    def folder_of(self, manifest: Manifest) -> Path:
        return self.root / "store" / str(manifest.address)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyReleases:
    return TinyReleases(root=tmp_path)
