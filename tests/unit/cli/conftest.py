"""Tiny releases, sealed by hand, with a real state record, ledger, judge and gate verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.cli.home import Home
from tasks.contracts.artifacts import Manifest
from tasks.contracts.gate_reports import GateCheck, GateReport
from tasks.contracts.json_types import Json, pretty_json
from tasks.contracts.requests import PLANS, ReleaseRequest
from tasks.contracts.stage_io import StageContext, StageInput
from tasks.contracts.stages import STAGE_FACTS, ArtifactKind, Stage
from tasks.gates.bounds import configuration
from tasks.rollout.judge import judge, verdict_numbers
from tasks.rollout.observation import StepObservation, VariantSeen
from tasks.rollout.phases import Decision
from tasks.rollout.state import ModelState, Note, open_state
from tasks.rollout.traffic_step import TrafficStepBegun, step_begun
from tasks.stages import judge_step, promote_release, roll_back_release
from tasks.statistics.guardrails import Quantile
from tasks.statistics.user_means import UserMeans

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
    found="as expected",
    where="in 2.1M rows",
    severity="critical",
    passed=True,
    expectation="expect_column_values_to_be_between",
    limits={"min_value": 0, "max_value": None},
    measured={"rows": 2_100_000, "unexpected": 0, "missing": 7},
)
REFUSING = replace(
    CHECK,
    passed=False,
    found="-4.0",
    where="in 118 of 2.1M rows",
    measured={"rows": 2_100_000, "unexpected": 118, "missing": 7},
)
OTHER_CODE = "code of a gate that is not ours"


@pytest.fixture(autouse=True)
def no_store_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that the shell of whoever runs the tests names is not that of these tests."""
    monkeypatch.delenv("HEADRACE_STORE", raising=False)


HIT_RATE = {True: 0.4, False: 0.2}  # better or worse than stable's 0.3


def observation(begun: TrafficStepBegun, *, better: bool) -> StepObservation:
    """What a step saw: equal times, no errors, and a clear difference in the outcome."""
    share = begun.share_basis_points / 10_000
    times = Quantile(estimate=5.0, low=4.5, high=5.5)

    def seen(users: int) -> VariantSeen:
        return VariantSeen(
            users=users,
            requests=3 * users,
            not_asked=0,
            failed=0,
            fell_back=0,
            slow=0,
            answered=3 * users,
            p50_ms=times,
            p95_ms=times,
            p99_ms=times,
        )

    candidate, stable = round(4000 * share), round(4000 * (1 - share))
    facts = begun.facts()
    return StepObservation(
        model=begun.model,
        release_id=begun.release_id,
        rollout=begun.rollout,
        salt=begun.salt,
        step=begun.step,
        share=begun.share_basis_points,
        earlier_share=facts.earlier_share,
        plan=begun.plan,
        candidate=seen(candidate),
        stable=seen(stable),
        candidate_outcome=UserMeans(users=candidate // 2, mean=HIT_RATE[better], variance=0.1),
        stable_outcome=UserMeans(users=stable, mean=0.3, variance=0.1),
        requests_without_outcome=0,
    )


@dataclass(kw_only=True)
class TinyReleases:
    """Seals releases into a store below `root`, or at `url`; `code` is the digest of the stages'."""

    root: Path
    url: str = ""
    code: str = "c"
    made: dict[str, dict[Stage, Manifest]] = field(default_factory=dict)
    sealed: list[Manifest] = field(default_factory=list)
    requests: dict[str, ReleaseRequest] = field(default_factory=dict)

    @property
    def home(self) -> Home:
        return Home(root=self.root, store_url=self.url or f"file://{self.root}/store")

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(ObjectStore(self.home.store_url), cache=self.root / "cache")

    @property
    def state(self) -> ModelState:
        return open_state(self.home.state, MODEL, self.store.objects)

    def seal(
        self, stage: Stage, files: Mapping[str, str], inputs: Mapping[str, Manifest] | None = None
    ) -> Manifest:
        folder = self._scratch(stage)
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return self._seal_folder(stage, folder, inputs or {})

    def _scratch(self, stage: Stage) -> Path:
        folder = self.root / "scratch" / f"{stage.value}-{len(list(self.root.glob('scratch/*')))}"
        folder.mkdir(parents=True)
        return folder

    def _seal_folder(
        self,
        stage: Stage,
        folder: Path,
        inputs: Mapping[str, Manifest],
        config: Mapping[str, Json] | None = None,
        code: str = "",
    ) -> Manifest:
        texts = {
            path.relative_to(folder).as_posix(): path.read_text()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        recipe = Recipe(
            kind=STAGE_FACTS[stage].produces,
            stage=stage,
            inputs={name: item.reference for name, item in inputs.items()},
            config=config or {"files": dict(texts)},
            code=code or self.code,
        )
        facts = {"seconds": 1.5, "started_at": 1_700_000_000.0, "host": "a-host"}
        manifest = self.store.seal(recipe, folder, facts)
        self.sealed.append(manifest)
        return manifest

    def gate(
        self,
        manifest: Manifest,
        *,
        passed: bool = True,
        release_id: str = "",
        text: Callable[[GateReport], str] = GateReport.to_text,
        bounds: Mapping[str, Json] | None = None,
        without: str = "",
        code: str = OTHER_CODE,
    ) -> Manifest:
        """Seal a report under the bounds of a release, as gate_artifact does; the first is kept.

        `bounds` are those in which it differs from what the release demands; `without` is the field
        that its code did not know.
        """
        report = GateReport(
            artifact=str(manifest.address),
            content=manifest.content,
            kind=manifest.kind,
            checks=(CHECK if passed else REFUSING,),
        )
        release = self.request(release_id or self._maker_of(manifest))
        folder = self._scratch(Stage.GATE_ARTIFACT)
        (folder / "report.json").write_text(text(report))
        (folder / "report.html").write_text("<p>page</p>")
        config = configuration(manifest, release)
        demanded = cast("dict[str, Json]", config["bounds"])
        config["bounds"] = {**demanded, **(bounds or {})}
        config.pop(without, None)
        return self._seal_folder(Stage.GATE_ARTIFACT, folder, {"artifact": manifest}, config, code)

    def _maker_of(self, manifest: Manifest) -> str:
        return next(name for name, made in self.made.items() if manifest in made.values())

    def request(self, release_id: str) -> ReleaseRequest:
        """Return what a release asked for, read once: who was champion then."""
        if release_id not in self.requests:
            self.requests[release_id] = self._requested(release_id)
        return self.requests[release_id]

    def _requested(self, release_id: str) -> ReleaseRequest:
        return ReleaseRequest(
            release_id=release_id,
            model=MODEL,
            dataset="complete-journey",
            as_of="2018-01-02T00:00:00Z",
            recipe="popularity",
            compression="int8",
            plan=PLANS["replay"],
            champion=self.state.champion(),
        )

    def make(
        self, release_id: str, *, text: str = "", reserve: bool = False
    ) -> dict[Stage, Manifest]:
        """Seal everything up to the staged slot, each artifact with its gate."""
        request = self.request(release_id).to_text()
        made = {Stage.REQUEST_RELEASE: self.seal(Stage.REQUEST_RELEASE, {"request.json": request})}
        for stage, reads in READS.items():
            inputs = {item.value: made[item] for item in reads}
            files = {"payload.txt": f"{stage.value} {text or release_id}", "deep/more.txt": "x"}
            if stage is Stage.EVALUATE_MODEL and (champion := self.state.champion()):
                inputs["champion"] = self._manifest_at(champion.bundle)
            if stage is Stage.STAGE_BUNDLE and reserve:
                files["slot.json"] = self._reserved(release_id, made)
            made[stage] = self.seal(stage, files, inputs)
            if STAGE_FACTS[stage].gated:
                self.gate(made[stage], release_id=release_id)
        self.made[release_id] = made
        return made

    def _manifest_at(self, address: str) -> Manifest:
        return next(one for one in self.sealed if str(one.address) == address)

    def _reserved(self, release_id: str, made: Mapping[Stage, Manifest]) -> str:
        bundle = str(made[Stage.BUNDLE_MODEL].address)
        events = str(made[Stage.INGEST_EVENTS].address)
        colour, number = self.state.reserve_slot(release_id, bundle=bundle, events=events)
        record = {"colour": colour.value, "release_number": number, "bundle": bundle}
        return pretty_json({"format": "staged_slot/1", "model": MODEL, **record})

    def promote(self, release_id: str, *, text: str = "") -> Manifest:
        """Release as the stages do: at once where nobody serves, else by the plan's steps."""
        made = self.make(release_id, text=text, reserve=True)
        inputs = {"slot": made[Stage.STAGE_BUNDLE]}
        if self.state.champion() is not None:
            inputs["verdict"] = self.steps(release_id, better=True)
        return self._end(Stage.PROMOTE_RELEASE, release_id, inputs)

    def refuse(self, release_id: str, *, text: str = "") -> Manifest:
        """Take a release to its last step, where it turns out to be worse, and roll it back."""
        made = self.make(release_id, text=text, reserve=True)
        self.steps(release_id, better=False)
        inputs = {"slot": made[Stage.STAGE_BUNDLE]}
        return self._end(Stage.ROLL_BACK_RELEASE, release_id, inputs)

    def steps(self, release_id: str, *, better: bool) -> Manifest:
        """Take a staged release through the steps of its plan; the last verdict is returned."""
        verdict: Manifest | None = None
        plan = PLANS["replay"]
        for step in range(1, len(plan.steps) + 1):
            verdict = self._step(release_id, step, verdict, better=better)
        assert verdict is not None
        return verdict

    def _step(
        self, release_id: str, step: int, before: Manifest | None, *, better: bool
    ) -> Manifest:
        plan, made = PLANS["replay"], self.made[release_id]
        entry = self.state.begin_step(release_id, step, plan, per_try_timeout_ms=150.0)
        begun = step_begun(self.state.peek(), entry, plan)
        inputs = {"slot": made[Stage.STAGE_BUNDLE], "features": made[Stage.BUILD_FEATURES]}
        if before is not None:
            inputs["verdict"] = before
        shifted = self.seal(Stage.SHIFT_TRAFFIC, {"step.json": begun.to_text()}, inputs)
        verdict = judge(observation(begun, better=better))
        expected = (Decision.SHIP if better else Decision.ROLL_BACK) if step == 3 else "proceed"
        assert verdict.decision == expected, verdict.sentences
        note = Note(why=verdict.sentences[0])
        numbers = verdict_numbers(verdict)
        self.state.record_verdict(release_id, step, verdict.decision, numbers=numbers, note=note)
        files = {
            "observation.json": verdict.observation.to_text(),
            "verdict.json": verdict.to_text(),
        }
        sealed = self.seal(Stage.JUDGE_STEP, files, {"step": shifted})
        self.gate(sealed, passed=verdict.decision.favourable, release_id=release_id)
        return sealed

    def cut(self, release_id: str) -> Manifest:
        """Take a release to its first step, where the keeper cuts it; the judge says so."""
        made = self.make(release_id, reserve=True)
        plan = PLANS["replay"]
        entry = self.state.begin_step(release_id, 1, plan, per_try_timeout_ms=150.0)
        begun = step_begun(self.state.peek(), entry, plan)
        inputs = {"slot": made[Stage.STAGE_BUNDLE], "features": made[Stage.BUILD_FEATURES]}
        shifted = self.seal(Stage.SHIFT_TRAFFIC, {"step.json": begun.to_text()}, inputs)
        keeper = Note(who="keeper", why="errors: 9 of 10")
        self.state.cut(release_id, 1, numbers={"events": 9}, note=keeper)
        out = self._scratch(Stage.JUDGE_STEP)
        step = self.folder_of(shifted) / shifted.payload_folder
        context = self._context(out, {"step": shifted}, release=self.request(release_id), path=step)
        judge_step.run(replace(context, work=self._scratch(Stage.JUDGE_STEP)))
        verdict = self._seal_folder(Stage.JUDGE_STEP, out, {"step": shifted})
        self.gate(verdict, passed=False, release_id=release_id)
        self._end(Stage.ROLL_BACK_RELEASE, release_id, {"slot": made[Stage.STAGE_BUNDLE]})
        return verdict

    def taken_back_by_a_person(self, run: str) -> Manifest:
        """Roll back what serves, as the DAG that a person triggers does: of no release's making."""
        out = self._scratch(Stage.ROLL_BACK_RELEASE)
        settings: dict[str, Json] = {
            "model": MODEL,
            "release": "stable",
            "reason": "bad",
            "requested_by": f"person ann, run {run}",
            "requested_at": datetime.now(tz=UTC).isoformat(),
        }
        roll_back_release.run(self._context(out, {}, settings=settings))
        return self._seal_folder(Stage.ROLL_BACK_RELEASE, out, {})

    def _end(self, stage: Stage, release_id: str, inputs: Mapping[str, Manifest]) -> Manifest:
        module = promote_release if stage is Stage.PROMOTE_RELEASE else roll_back_release
        out = self._scratch(stage)
        module.run(self._context(out, inputs, release=self.request(release_id)))
        self.made[release_id][stage] = self._seal_folder(stage, out, inputs)
        return self.made[release_id][stage]

    def _context(
        self,
        out: Path,
        inputs: Mapping[str, Manifest],
        *,
        release: ReleaseRequest | None = None,
        settings: Mapping[str, Json] | None = None,
        path: Path | None = None,
    ) -> StageContext:
        return StageContext(
            inputs={
                name: StageInput(address=str(item.address), manifest=item, path=path or out)
                for name, item in inputs.items()
            },
            out=out,
            work=out,
            progress=lambda _sentence, _share: None,
            store_url=self.home.store_url,
            release=release,
            state_dir=self.home.state,
            settings=settings or {},
        )

    def folder_of(self, manifest: Manifest) -> Path:
        return self.root / "store" / str(manifest.address)

    def reports_on(self, manifest: Manifest) -> list[Manifest]:
        return [
            one
            for one in self.sealed
            if one.kind is ArtifactKind.GATE_REPORT
            and one.inputs["artifact"].content == manifest.content
        ]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyReleases:
    return TinyReleases(root=tmp_path)
