"""`build_release.py FOLDER`: run every stage of a small release once, in one process, and write down how.

Needs FOLDER/shop (events) and, for the stages with effects, running slots named in
FOLDER/live/state/shop/slots.json. Leaves FOLDER/live/store, FOLDER/requests/<stage>.json with the
request of every stage, and FOLDER/found/<stage>/{state,ledger} as that stage found them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from tasks.__main__ import World, run_stage
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import STAGE_FACTS, Stage
from tasks.rollout.state import ModelState, open_state
from tasks.serving.slot_folder import publish, read_slots
from tests.integration.kills.small_shop import AS_OF

MODEL, RELEASE = "shop", "second"
STORE = "STORE"  # stands for the store's address in the written requests


def keep_what_is_found(folder: Path, stage: str) -> None:
    """Copy state and ledger as they are now; the slots' own folders stay where servers watch."""
    found, live = folder / "found" / stage, folder / "live"
    shutil.copytree(live / "state", found / "state", ignore=shutil.ignore_patterns("slots"))
    (live / "store" / "ledger").mkdir(parents=True, exist_ok=True)
    shutil.copytree(live / "store" / "ledger", found / "ledger")


class Builder:
    """Runs stages of one release, each gated, and remembers what each was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "live" / "state"
        self.store_url = f"file://{folder}/live/store"
        self.release: str | None = None
        self.made: dict[Stage, str] = {}
        self.gates: dict[Stage, str] = {}
        (folder / "requests").mkdir()

    @property
    def state(self) -> ModelState:
        return open_state(self.state_dir, MODEL, ObjectStore(self.store_url))

    def run(self, stage: Stage, gated: dict[str, Stage] | None = None, **settings: object) -> str:
        """Write down what `stage` is asked and what it finds, run it, and gate what it made."""
        reads = {name: self.made[source] for name, source in (gated or {}).items()}
        gates = {name: self.gates[s] for name, s in (gated or {}).items() if s in self.gates}
        request = StageRequest(
            stage=stage,
            store_url=self.store_url,
            release=self.release,
            reads=reads,
            gates=gates,
            settings=settings,  # type: ignore[arg-type]
        )
        self.note(request)
        keep_what_is_found(self.folder, stage.value)
        self.made[stage] = self._sealed(request)
        if STAGE_FACTS[stage].gated and stage is not Stage.JUDGE_STEP:
            gate = replace(
                request,
                stage=Stage.GATE_ARTIFACT,
                reads={"artifact": self.made[stage]},
                gates={},
                settings={},
            )
            if stage is Stage.INGEST_EVENTS:
                self.note(gate)
                self.made[Stage.GATE_ARTIFACT] = self._sealed(gate)
            self.gates[stage] = self._sealed(gate)
        return self.made[stage]

    def note(self, request: StageRequest) -> None:
        text = replace(request, store_url=STORE).to_text()
        (self.folder / "requests" / f"{request.stage.value}.json").write_text(text)

    def _sealed(self, request: StageRequest) -> str:
        manifest, outcome = run_stage(request, World(request, os.environ))
        print(f"{request.stage.value}: {outcome.sentence}", flush=True)
        if outcome.refused:
            message = f"{request.stage.value}: {outcome.sentence}"
            raise AssertionError(message)
        return str(manifest.address)

    def keep(self, stage: Stage, gated: dict[str, Stage], **settings: object) -> None:
        """Write down a stage that is only run to be killed; its state is prepared by the caller."""
        request = StageRequest(
            stage=stage,
            store_url=self.store_url,
            release=self.release,
            reads={name: self.made[source] for name, source in gated.items()},
            gates={name: self.gates[s] for name, s in gated.items() if s in self.gates},
            settings=settings,  # type: ignore[arg-type]
        )
        self.note(request)

    def first_release_serves(self) -> None:
        """Let the very same bundle serve as the first release, in the first slot."""
        bundle, events = self.made[Stage.BUNDLE_MODEL], self.made[Stage.INGEST_EVENTS]
        slots = read_slots(self.state_dir / MODEL / "slots.json")
        colour, number = self.state.reserve_slot("first", bundle=bundle, events=events)
        payload = next((self.folder / "live" / "store" / bundle).glob("payload-*"))
        publish(payload / "model", slots[colour].directory, number)
        self.state.promote("first")


def made_before_staging(build: Builder, recipe: str) -> None:
    """Run the stages without effects."""
    shop = build.folder / "shop"
    build.release = build.run(
        Stage.REQUEST_RELEASE,
        release_id=RELEASE,
        requested_at=AS_OF,
        model=MODEL,
        dataset="events",
        as_of=AS_OF,
        recipe=recipe,
        compression="int8",
        plan="replay",
        seed=1,
        events_url=str(shop / "events.parquet"),
        catalogue_url=str(shop / "catalogue.parquet"),
    )
    build.run(Stage.INGEST_EVENTS)
    build.run(Stage.BUILD_FEATURES, {"events": Stage.INGEST_EVENTS})
    build.run(Stage.TRAIN_MODEL, {"features": Stage.BUILD_FEATURES})
    build.run(Stage.COMPRESS_MODEL, {"model": Stage.TRAIN_MODEL, "features": Stage.BUILD_FEATURES})
    build.run(Stage.BUNDLE_MODEL, {"model": Stage.COMPRESS_MODEL})
    build.run(
        Stage.EVALUATE_MODEL, {"bundle": Stage.BUNDLE_MODEL, "features": Stage.BUILD_FEATURES}
    )


def made_with_users(build: Builder) -> None:
    """Stage beside a first release and begin a step; the caller lets users ask, then judges."""
    build.first_release_serves()
    build.run(
        Stage.STAGE_BUNDLE,
        {
            "bundle": Stage.BUNDLE_MODEL,
            "evaluation": Stage.EVALUATE_MODEL,
            "events": Stage.INGEST_EVENTS,
        },
    )
    build.run(
        Stage.SHIFT_TRAFFIC,
        {"slot": Stage.STAGE_BUNDLE, "features": Stage.BUILD_FEATURES},
        step=1,
    )
    build.keep(Stage.JUDGE_STEP, {"step": Stage.SHIFT_TRAFFIC})
    build.keep(Stage.ROLL_BACK_RELEASE, {"slot": Stage.STAGE_BUNDLE})
    build.keep(
        Stage.HOTFIX_STABLE,
        {"bundle": Stage.BUNDLE_MODEL},
        model=MODEL,
        reason="prices were wrong",
        requested_by="person ann, run manual__1",
    )
    build.keep(Stage.PROMOTE_RELEASE, {"slot": Stage.STAGE_BUNDLE})
    build.keep(
        Stage.MIRROR_RELEASE,
        {
            "events": Stage.INGEST_EVENTS,
            "features": Stage.BUILD_FEATURES,
            "model": Stage.TRAIN_MODEL,
            "compressed": Stage.COMPRESS_MODEL,
            "bundle": Stage.BUNDLE_MODEL,
            "evaluation": Stage.EVALUATE_MODEL,
            "slot": Stage.STAGE_BUNDLE,
        },
    )
    before_promotion(build)


def before_promotion(build: Builder) -> None:
    """Make a state in which the release is the first one, staged: it may be promoted."""
    found = build.folder / "found" / Stage.PROMOTE_RELEASE.value
    (found / "state" / MODEL).mkdir(parents=True)
    shutil.copy(build.state_dir / MODEL / "slots.json", found / "state" / MODEL)
    state = open_state(found / "state", MODEL, ObjectStore(f"file://{found}"))
    state.reserve_slot(
        RELEASE, bundle=build.made[Stage.BUNDLE_MODEL], events=build.made[Stage.INGEST_EVENTS]
    )


def main(folder: Path) -> None:
    build = Builder(folder)
    made_before_staging(build, os.environ.get("KILLS_RECIPE", "blended_transformer"))
    made_with_users(build)
    made = {stage.value: address for stage, address in build.made.items()}
    (folder / "made.json").write_text(json.dumps(made))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
