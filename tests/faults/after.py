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
    """Assert that the next stage makes nothing of what was stopped."""
    if stop.report is None:
        stage = Stage(stop.name)
        assert STAGE_FACTS[stage].produces not in release.made
        kind = STAGE_FACTS[stage].produces
    else:
        assert stop.code is ExitCode.GATE_REFUSED
        kind = stop.report.kind
    for following in _readers(kind):
        _makes_nothing(following, kind, release, gated=stop.report is not None)


def _makes_nothing(stage: Stage, kind: ArtifactKind, release: Release, *, gated: bool) -> None:
    product = STAGE_FACTS[stage].produces
    before = release.line.sealed(product)
    if gated:
        refused = release.run(stage)
        assert refused.code is ExitCode.GATE_REFUSED, refused.sentence
        assert f"Gate '{kind.value}' refused" in refused.sentence
        without = {n: a for n, a in release.gates(stage).items() if a != release.reports[kind]}
        unasked = release.run(stage, gates=without)
        assert unasked.code is ExitCode.BAD_REQUEST, unasked.sentence
        assert "expected the address of its gate report" in unasked.sentence
    else:
        unread = release.run(stage)
        assert unread.code is ExitCode.BAD_REQUEST, unread.sentence
        assert "missing [" in unread.sentence
    assert release.line.sealed(product) == before


def _readers(kind: ArtifactKind) -> list[Stage]:
    """Return the first stage that reads this kind behind its gate."""
    stages = [*MAKING, Stage.SHIFT_TRAFFIC, Stage.PROMOTE_RELEASE]
    for stage in stages:
        module = importlib.import_module(f"tasks.stages.{stage.value}")
        gated = {module.READS.get(name, module.READS.get(f"{name}?")) for name in module.GATED}
        if kind in gated:
            return [stage]
    return []
