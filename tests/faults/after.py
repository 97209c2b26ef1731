"""What must hold after every fault, wherever it was planted."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field

from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.stages import STAGE_FACTS, ArtifactKind, Stage
from tasks.rollout.record import StateRecord
from tests.faults.fault_table import Fault
from tests.faults.line import MAKING, Hop, Line, Release
from tests.faults.storefront import Storefront


@dataclass
class Tally:
    """Figures of this run, by fault, for the table at its end."""

    figures: dict[str, str] = field(default_factory=dict)
    verdicts: list[str] = field(default_factory=list)  # of the gate on resampled users

    def note(self, fault: Fault, text: str) -> None:
        known = self.figures.get(fault.key)
        self.figures[fault.key] = f"{known}; {text}" if known else text


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A deployment with a champion that serves, as it was before a fault."""

    line: Line
    storefront: Storefront
    champion: Release
    before: StateRecord

    def users_keep_the_old_model(self) -> None:
        """Assert that nothing moved, and that users get the champion's answers."""
        assert self.line.now() == self.before
        bundle = self.champion.path(ArtifactKind.SERVING_BUNDLE)
        assert self.storefront.answers_of(bundle)


def stopped_as_said(fault: Fault, stop: Hop | None) -> Hop:
    """Assert where the fault was stopped and what was said there; return the stop."""
    assert stop is not None, f"{fault.planted}: nothing stopped it"
    assert stop.name == fault.hop, f"stopped by {stop.name}: {stop.sentence}"
    said = stop.sentence
    if stop.report is not None:  # the sentence lists as many failures as fit, the report all
        said = " ".join([said, *(check.advice for check in stop.report.failures)])
    missing = [part for part in fault.says if part not in said]
    assert not missing, f"{missing} not said in: {said}"
    return stop


def nothing_runs_after(stop: Hop, release: Release) -> None:
    """Assert that no stage behind the stop makes anything of what was stopped."""
    if stop.report is None:
        stage = Stage(stop.name)
        kind = STAGE_FACTS[stage].produces
        assert kind not in release.made
        _is_stopped_again(stage, stop, release)
        for following in readers(kind, release):
            _makes_nothing_of_the_unmade(following, kind, release, stop)
        return
    assert stop.code is ExitCode.GATE_REFUSED
    for following in readers(stop.report.kind, release):
        _makes_nothing_of_the_refused(following, stop.report.kind, release)


def _is_stopped_again(stage: Stage, stop: Hop, release: Release) -> None:
    """Run what stopped once more, as a retry does: had it sealed anything, it would be re-used."""
    before = release.line.sealed(STAGE_FACTS[stage].produces)
    again = release.run(stage)
    assert (again.code, again.address) == (stop.code, None), again.sentence
    assert release.line.sealed(STAGE_FACTS[stage].produces) == before


def _makes_nothing_of_the_refused(stage: Stage, kind: ArtifactKind, release: Release) -> None:
    product = STAGE_FACTS[stage].produces
    before = release.line.sealed(product)
    refused = release.run(stage)
    assert refused.code is ExitCode.GATE_REFUSED, refused.sentence
    assert f"Gate '{kind.value}' refused" in refused.sentence
    without = {n: a for n, a in release.gates(stage).items() if a != release.reports[kind]}
    unasked = release.run(stage, gates=without)
    assert unasked.code is ExitCode.BAD_REQUEST, unasked.sentence
    assert "expected the address of its gate report" in unasked.sentence
    assert release.line.sealed(product) == before


def _makes_nothing_of_the_unmade(
    stage: Stage, kind: ArtifactKind, release: Release, stop: Hop
) -> None:
    """Neither without the artifact nor told of one that was never sealed does the stage begin.

    Where it reads the corrupt bytes that stopped the release too, it may say so first.
    """
    product = STAGE_FACTS[stage].produces
    before = release.line.sealed(product)
    name = next(name for name, read in reads_of(stage).items() if read is kind)
    unread = release.run(stage)
    assert unread.code is ExitCode.BAD_REQUEST, unread.sentence
    assert f"missing ['{name}']" in unread.sentence
    never = f"{kind.value}/{'0' * 64}"
    unmade = release.line.run(
        stage,
        release=release.address,
        reads={**release.reads(stage), name: never},
        gates=release.gates(stage),
    )
    if unmade.sentence != stop.sentence:
        assert unmade.code is ExitCode.BAD_REQUEST, unmade.sentence
        assert f"expected a sealed {never}, found no manifest.json" in unmade.sentence
    assert (unmade.done, unmade.address) == (False, None)
    assert release.line.sealed(product) == before


def readers(kind: ArtifactKind, release: Release) -> list[Stage]:
    """Return the stages that read this kind behind its gate and miss nothing else."""
    found = []
    for stage in (*MAKING, Stage.SHIFT_TRAFFIC, Stage.PROMOTE_RELEASE):
        module = importlib.import_module(f"tasks.stages.{stage.value}")
        reads = reads_of(stage)
        needed = {reads[name] for name in reads if f"{name}?" not in module.READS}
        if kind in {reads[name] for name in module.GATED} and needed <= {kind, *release.made}:
            found.append(stage)
    assert found, f"{kind.value}: expected a stage that reads it behind its gate, found none"
    return found


def reads_of(stage: Stage) -> dict[str, ArtifactKind]:
    module = importlib.import_module(f"tasks.stages.{stage.value}")
    return {name.rstrip("?"): kind for name, kind in module.READS.items()}
