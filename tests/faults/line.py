"""Releases on their way through the real stages: `python -m tasks <stage>` and its gates."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

from tasks.__main__ import main
from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.chain import sealed
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.artifacts import Address, SealedEvidence, parse_termination
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.gate_reports import GateReport
from tasks.contracts.json_types import Json
from tasks.contracts.requests import Champion, ReleaseRequest, TrafficPlan
from tasks.contracts.stage_io import StageContext, StageInput, StageModule, StageRequest
from tasks.contracts.stages import STAGE_FACTS, ArtifactKind, Stage
from tasks.rollout.record import StateRecord
from tasks.rollout.state import ModelState, open_state
from tests.faults.shop import Shop

MODEL = "shop"
MAKING = (
    Stage.INGEST_EVENTS,
    Stage.BUILD_FEATURES,
    Stage.TRAIN_MODEL,
    Stage.COMPRESS_MODEL,
    Stage.BUNDLE_MODEL,
    Stage.EVALUATE_MODEL,
    Stage.STAGE_BUNDLE,
)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How one stage ended."""

    stage: Stage
    code: ExitCode
    sentence: str
    evidence: SealedEvidence | None

    @property
    def address(self) -> str | None:
        return None if self.evidence is None else str(self.evidence.address)

    @property
    def done(self) -> bool:
        return self.code is ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Hop:
    """Where a release was stopped: a stage, or the gate on what it made."""

    name: str
    code: ExitCode
    sentence: str
    report: GateReport | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A store, in `folder` or at `url`, and a state folder in which releases are made."""

    folder: Path
    url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)  # of its stages

    @property
    def store_url(self) -> str:
        return self.url or f"file://{self.folder}/store"

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(ObjectStore(self.store_url), cache=self.folder / "cache")

    @property
    def state(self) -> ModelState:
        return open_state(self.state_dir, MODEL, ObjectStore(self.store_url))

    def now(self) -> StateRecord:
        return self.state.peek()

    def path(self, address: str) -> Path:
        """Return the payload of a sealed artifact, verified."""
        return self.store.fetch(self.store.manifest(Address.parse(address)))

    def sealed(self, kind: ArtifactKind) -> set[str]:
        """Return the addresses of all sealed artifacts of a kind."""
        return {str(address) for address in sealed(self.store, kind)}

    def run(self, stage: Stage, **parts: Any) -> Ran:
        """Run a stage by its command line."""
        request = StageRequest(stage=stage, store_url=self.store_url, **parts)
        self.folder.mkdir(parents=True, exist_ok=True)
        file, log = self.folder / "request.json", self.folder / "termination"
        file.write_text(request.to_text())
        log.unlink(missing_ok=True)
        environment = {
            **self.environment,
            "HEADRACE_STATE": str(self.state_dir),
            "HEADRACE_WORK": str(self.folder / "work"),
            "HEADRACE_TERMINATION_LOG": str(log),
        }
        with mock.patch.dict(os.environ, environment):
            code = ExitCode(main([stage.value, str(file)]))
        said = log.read_text()
        evidence = parse_termination(said)
        return Ran(
            stage=stage,
            code=code,
            sentence=said.partition(" | ")[2] if evidence else said,
            evidence=evidence,
        )

    def request(self, release_id: str, shop: Shop, recipe: str, **more: Json) -> Release:
        """Seal the request of a release of this shop's own events."""
        form: dict[str, Json] = {
            "release_id": release_id,
            "requested_at": shop.as_of,
            "model": MODEL,
            "dataset": "events",
            "as_of": shop.as_of,
            "recipe": recipe,
            "compression": "int8",
            "plan": "replay",
            "seed": 1,
            **cast("dict[str, Json]", shop.urls),
            **more,
        }
        ran = self.run(Stage.REQUEST_RELEASE, settings=form)
        assert ran.address is not None, ran.sentence
        return Release(line=self, address=ran.address)

    def again(self, release: Release, release_id: str, **more: Json) -> Release:
        """Seal the request of another release by the same form, but for these values."""
        form = cast(
            "dict[str, Json]", self.store.manifest(Address.parse(release.address)).config["form"]
        )
        ran = self.run(Stage.REQUEST_RELEASE, settings={**form, "release_id": release_id, **more})
        assert ran.address is not None, ran.sentence
        return Release(line=self, address=ran.address)

    def planned(self, release: Release, plan: TrafficPlan) -> Release:
        """Return the same request with another traffic plan than the form offers."""
        return self._resealed(release, replace(release.pinned, plan=plan), "plan", plan)

    def against(self, release: Release, champion: Release) -> Release:
        """Return the same request with a champion that need not have served."""
        pinned = Champion(
            release_number=1,
            release_id=champion.pinned.release_id,
            bundle=champion.made[ArtifactKind.SERVING_BUNDLE],
            events=champion.made[ArtifactKind.VALIDATED_EVENTS],
        )
        changed = replace(release.pinned, champion=pinned)
        return self._resealed(release, changed, "champion", pinned)

    def _resealed(
        self, release: Release, changed: ReleaseRequest, name: str, part: TrafficPlan | Champion
    ) -> Release:
        folder = self.folder / f"request-{release.pinned.release_id}"
        folder.mkdir()
        (folder / "request.json").write_text(changed.to_text())
        manifest = self.store.manifest(Address.parse(release.address))
        recipe = Recipe(
            kind=manifest.kind,
            stage=manifest.stage,
            inputs=manifest.inputs,
            config={**manifest.config, name: cast("Json", json.loads(json.dumps(asdict(part))))},
            code=manifest.code,
        )
        resealed = self.store.seal(recipe, folder, {})
        return Release(line=self, address=str(resealed.address))


@dataclass(kw_only=True)
class Release:
    """One release: what it made, the gate reports on it, and where it was stopped."""

    line: Line
    address: str
    made: dict[ArtifactKind, str] = field(default_factory=dict)
    reports: dict[ArtifactKind, str] = field(default_factory=dict)

    @property
    def pinned(self) -> ReleaseRequest:
        path = self.line.path(self.address) / "request.json"
        return ReleaseRequest.parse(path.read_bytes(), str(path))

    def path(self, kind: ArtifactKind) -> Path:
        return self.line.path(self.made[kind])

    def reads(self, stage: Stage) -> dict[str, str]:
        wanted = {name.rstrip("?"): kind for name, kind in _module(stage).READS.items()}
        wanted = {name: kind for name, kind in wanted.items() if name != "champion"}
        return {name: self.made[kind] for name, kind in wanted.items() if kind in self.made}

    def gates(self, stage: Stage) -> dict[str, str]:
        reads = {name.rstrip("?"): kind for name, kind in _module(stage).READS.items()}
        wanted = {name: reads[name] for name in _module(stage).GATED}
        return {name: self.reports[kind] for name, kind in wanted.items() if kind in self.reports}

    def run(self, stage: Stage, *, gates: Mapping[str, str] | None = None, **settings: Json) -> Ran:
        """Run one stage on what this release has made."""
        return self.line.run(
            stage,
            release=self.address,
            reads=self.reads(stage),
            gates=self.gates(stage) if gates is None else gates,
            settings=settings,
        )

    def gate(self, kind: ArtifactKind) -> Hop | None:
        """Run the gate on an artifact; return the stop where it refuses."""
        ran = self.line.run(
            Stage.GATE_ARTIFACT, release=self.address, reads={"artifact": self.made[kind]}
        )
        name = f"gate on {kind.value}"
        if ran.address is None:
            return Hop(name=name, code=ran.code, sentence=ran.sentence)
        self.reports[kind] = ran.address
        where = self.line.path(ran.address) / "report.json"
        report = GateReport.parse(where.read_bytes(), str(where))
        return (
            None
            if ran.done
            else Hop(name=name, code=ran.code, sentence=ran.sentence, report=report)
        )

    def pass_through(self, stage: Stage, **settings: Json) -> Hop | None:
        """Run a stage and its gate; return where it was stopped."""
        ran = self.run(stage, **settings)
        if not ran.done or ran.address is None:
            return Hop(name=stage.value, code=ran.code, sentence=ran.sentence)
        kind = STAGE_FACTS[stage].produces
        self.made[kind] = ran.address
        self.reports.pop(kind, None)
        return self.gate(kind) if STAGE_FACTS[stage].gated else None

    def go(self, *stages: Stage) -> Hop | None:
        """Run stages with their gates until the first stop."""
        stops = (self.pass_through(stage) for stage in stages)
        return next((stop for stop in stops if stop is not None), None)

    def go_until(self, last: Stage) -> Hop | None:
        """Run from where this release is until `last`."""
        left = [s for s in MAKING if STAGE_FACTS[s].produces not in self.made]
        return self.go(*[stage for stage in left if MAKING.index(stage) <= MAKING.index(last)])

    def plant(self, kind: ArtifactKind, fault: str, change: Callable[[Path], None]) -> None:
        """Seal, in place of an artifact, one whose payload was changed before it was sealed."""
        with self._as_if_made(kind, fault) as (folder, _):
            shutil.copytree(self.path(kind), folder, dirs_exist_ok=True)
            change(folder)

    def plant_made(
        self, stage: Stage, fault: str, inputs: Mapping[str, Callable[[Path], None]]
    ) -> None:
        """Seal what the stage's own code makes of inputs changed behind the gate's back."""
        kind = STAGE_FACTS[stage].produces
        with self._as_if_made(kind, fault) as (out, context):
            changed = dict(context.inputs)
            for name, change in inputs.items():
                copy = out.with_name(f"{out.name}-{name}")
                shutil.copytree(changed[name].path, copy)
                change(copy)
                changed[name] = replace(changed[name], path=copy)
            _module(stage).run(replace(context, inputs=changed))

    @contextmanager
    def _as_if_made(self, kind: ArtifactKind, fault: str) -> Iterator[tuple[Path, StageContext]]:
        """Yield an empty payload folder and the maker's context; seal the folder afterwards."""
        stage = next(s for s in Stage if STAGE_FACTS[s].produces is kind)
        store = self.line.store
        inputs = {}
        for name, address in self.reads(stage).items():
            manifest = store.manifest(Address.parse(address))
            inputs[name] = StageInput(
                address=address, manifest=manifest, path=store.fetch(manifest)
            )
        out = self.line.folder / "planted" / f"{kind.value}-{fault}-{self.pinned.release_id}"
        out.mkdir(parents=True)
        (out.parent / f"{out.name}.work").mkdir()
        context = StageContext(
            inputs=inputs,
            out=out,
            work=out.parent / f"{out.name}.work",
            progress=lambda _sentence, _share: None,
            store_url=self.line.store_url,
            release=self.pinned,
            release_address=self.address,
            state_dir=self.line.state_dir,
        )
        yield out, context
        recipe = Recipe(
            kind=kind,
            stage=stage,
            inputs={name: item.manifest.reference for name, item in inputs.items()},
            config={"planted": fault, "release_id": self.pinned.release_id},
            code="planted",
        )
        self.made[kind] = str(store.seal(recipe, out, {}).address)
        self.reports.pop(kind, None)


def _module(stage: Stage) -> StageModule:
    return cast("StageModule", importlib.import_module(f"tasks.stages.{stage.value}"))
