"""Faults of a slot: found before users meet it, or taken out without a user noticing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pytest

from tasks.contracts.requests import TrafficPlan
from tasks.contracts.stages import ArtifactKind, Stage
from tasks.rollout.phases import Phase
from tasks.rollout.record import Colour
from tests.faults.after import Scene, Tally, nothing_runs_after, stopped_as_said
from tests.faults.fault_table import Fault, faults_of
from tests.faults.faulty_slot import Spoiler
from tests.faults.form import Form
from tests.faults.line import MODEL, Hop, Ran, Release
from tests.faults.plants import disturb_weights
from tests.faults.serving_plan import guardrail_plan, ship_plan, staging_plan
from tests.faults.shop import Shop
from tests.faults.storefront import CountingTransport, Storefront

KIND = ArtifactKind
Candidate = Callable[[str, TrafficPlan], Release]
CANDIDATE = Colour.GREEN  # blue serves the champion
# Ten times as slow as a very quick slot is within the plan's bound, and no fault.
QUICKEST_AT_STAGING_MS, QUICKEST_UNDER_TRAFFIC_MS = 6.0, 12.0


@pytest.fixture
def candidate(scene: Scene, shop: Shop) -> Iterator[Candidate]:
    """Make sound releases up to their evaluation: the champion's model without int8.

    One that a failed test leaves in progress is rolled back: the next test has its own say.
    """
    made = []

    def make(release_id: str, plan: TrafficPlan) -> Release:
        asked = scene.line.request(release_id, shop, "markov", compression="none")
        release = scene.line.planned(asked, plan)
        stop = release.go_until(Stage.EVALUATE_MODEL)
        assert stop is None, stop
        made.append(release)
        return release

    yield make
    for release in made:
        if scene.line.now().status.phase is not Phase.SERVING:
            release.run(Stage.ROLL_BACK_RELEASE)


@pytest.fixture
def spoiler(storefront: Storefront, champion: Release) -> Iterator[Spoiler]:
    found = storefront.slots[CANDIDATE].spoiler
    found.heal()
    yield found
    found.heal()


def ten_times_slower(spoiler: Spoiler, quickest_ms: float) -> None:
    """Add nine times what the real server takes for each answer."""
    spoiler.slower, spoiler.least_seconds = 9.0, 9 * quickest_ms / 1000


def end(release: Release, scene: Scene) -> None:
    """Roll back as the DAG does, and see that the champion serves everybody again."""
    seen_to_end(release.run(Stage.ROLL_BACK_RELEASE), scene)


def taken_back_by_hand(scene: Scene) -> Ran:
    """Take stable out as the DAG `roll_back` does when a person asks for it."""
    return scene.line.run(
        Stage.ROLL_BACK_RELEASE,
        settings={
            "model": MODEL,
            "release": "stable",
            "reason": "complaints",
            "requested_by": "person ann, run manual__1",
            "requested_at": datetime.now(UTC).isoformat(),
        },
    )


def seen_to_end(rolled_back: Ran, scene: Scene) -> None:
    assert rolled_back.done, rolled_back.sentence
    assert "release 1 serves" in rolled_back.sentence
    scene.storefront.settle()
    now = scene.line.now()
    assert (now.status.phase, now.status.share) == (Phase.SERVING, 0)
    assert now.roles.stable == scene.before.roles.stable
    assert scene.storefront.answers_of(scene.champion.path(KIND.SERVING_BUNDLE))


# Before users meet it.


def wrong_for_one_percent(_release: Release, spoiler: Spoiler) -> None:
    spoiler.wrong_every = 100


def slow_at_staging(_release: Release, spoiler: Spoiler) -> None:
    ten_times_slower(spoiler, QUICKEST_AT_STAGING_MS)


def certificate_outlived(release: Release, _spoiler: Spoiler) -> None:
    """Serve a SavedModel of other weights under the certificate and answers of the right ones."""
    honest = release.path(KIND.SERVING_BUNDLE)
    weights = "model/weights.safetensors"
    release.plant_made(
        Stage.BUNDLE_MODEL, "made", {"model": lambda f: disturb_weights(f / weights, 0.01)}
    )

    def keep_papers(folder: Path) -> None:
        for name in ("parity.json", "golden.jsonl"):
            shutil.copyfile(honest / name, folder / name)

    release.plant(KIND.SERVING_BUNDLE, "outlived", keep_papers)
    assert release.gate(KIND.SERVING_BUNDLE) is None
    assert release.pass_through(Stage.EVALUATE_MODEL) is None


STAGING: Mapping[str, Callable[[Release, Spoiler], None]] = MappingProxyType(
    {
        plant.__name__: plant
        for plant in (certificate_outlived, wrong_for_one_percent, slow_at_staging)
    }
)


@pytest.mark.parametrize("fault", faults_of("staging"), ids=lambda fault: fault.planted)
def test_a_slot_that_fails_its_check_is_never_given_users(
    fault: Fault,
    scene: Scene,
    form: Form,
    candidate: Candidate,
    spoiler: Spoiler,
    tally: Tally,
) -> None:
    release = candidate(fault.key, staging_plan(form))
    STAGING[fault.key](release, spoiler)
    stop = stopped_as_said(fault, release.pass_through(Stage.STAGE_BUNDLE))
    nothing_runs_after(stop, release)
    assert scene.line.now().status.share == 0
    assert scene.storefront.answers_of(scene.champion.path(KIND.SERVING_BUNDLE))
    end(release, scene)
    infra = json.loads((release.path(KIND.STAGED_SLOT) / "infra.json").read_text())
    answers, latency = infra["grpc"], infra["latency_ms"]
    tally.note(
        fault,
        f"{answers['wrong']} of {answers['n']} wrong, p99 {latency['candidate']['p99']:.0f} ms "
        f"beside stable's {latency['stable']['p99']:.0f} ms",
    )


# While users meet it.


def answers_500(release: Release, spoiler: Spoiler) -> None:
    spoiler.status = 500


def hangs(release: Release, spoiler: Spoiler) -> None:
    spoiler.hang()


def becomes_slow(_release: Release, spoiler: Spoiler) -> None:
    ten_times_slower(spoiler, QUICKEST_UNDER_TRAFFIC_MS)


def worse_answers(release: Release, spoiler: Spoiler) -> None:
    spoiler.worst_first = True


TRAFFIC: Mapping[str, Callable[[Release, Spoiler], None]] = MappingProxyType(
    {
        "answers_500": answers_500,
        "hangs": hangs,
        "ten_times_slower": becomes_slow,
        "worse_answers": worse_answers,
    }
)


def take_step(release: Release, scene: Scene, step: int) -> tuple[CountingTransport, Hop | None]:
    """Shift, let users ask, judge; return what users got and where the release was stopped."""
    shifted = release.run(Stage.SHIFT_TRAFFIC, step=step)
    assert shifted.address is not None, shifted.sentence
    release.made[KIND.TRAFFIC_STEP] = shifted.address
    got = scene.storefront.bake(release.pinned.release_id, step)
    return got, release.pass_through(Stage.JUDGE_STEP, step=step)


@pytest.mark.parametrize("fault", faults_of("traffic"), ids=lambda fault: fault.planted)
def test_a_candidate_that_goes_bad_is_taken_out_and_no_request_fails(
    fault: Fault,
    scene: Scene,
    form: Form,
    candidate: Candidate,
    spoiler: Spoiler,
    tally: Tally,
) -> None:
    plan = ship_plan if fault.key == "worse_answers" else guardrail_plan
    release = candidate(fault.key, plan(form, form.requests))
    stop = release.pass_through(Stage.STAGE_BUNDLE)
    assert stop is None, stop
    got, stop = take_step(release, scene, 1)
    assert (got.failed, stop) == (0, None)
    TRAFFIC[fault.key](release, spoiler)
    got, stop = take_step(release, scene, 2)
    assert got.failed == 0, got.counts
    assert got.asked >= form.requests
    _no_exposure_failed(scene, form)
    stop = stopped_as_said(fault, stop)
    assert scene.line.now().status.share == 0
    nothing_runs_after(stop, release)
    end(release, scene)
    tally.note(fault, f"{got.failed} of {got.asked} requests failed")


def _no_exposure_failed(scene: Scene, form: Form) -> None:
    """Hold what clients counted against the router's own log."""
    rollout = scene.line.now().rollout
    assert rollout is not None
    lines = scene.storefront.exposures(rollout)
    assert len(lines) >= form.requests
    assert {line["code"] for line in lines} == {200}
    assert {line["variant"] for line in lines} == {"candidate", "stable"}


def test_the_same_candidate_without_a_fault_is_shipped_and_can_be_taken_back(
    scene: Scene, form: Form, candidate: Candidate, spoiler: Spoiler
) -> None:
    release = candidate("sound", ship_plan(form, 300))
    stop = release.pass_through(Stage.STAGE_BUNDLE)
    assert stop is None, stop
    for step in (1, 2):
        got, stop = take_step(release, scene, step)
        assert (got.failed, stop) == (0, None)
    promoted = release.run(Stage.PROMOTE_RELEASE)
    assert promoted.done, promoted.sentence
    assert scene.line.now().roles.stable is CANDIDATE
    scene.storefront.settle()
    assert scene.storefront.answers_of(release.path(KIND.SERVING_BUNDLE))
    own = release.run(Stage.ROLL_BACK_RELEASE)  # a task cleared by hand ends nothing that serves
    assert (own.done, scene.line.now().roles.stable) == (True, CANDIDATE), own.sentence
    seen_to_end(taken_back_by_hand(scene), scene)


def test_every_serving_fault_of_the_table_has_its_plant() -> None:
    assert [fault.key for fault in faults_of("staging")] == list(STAGING)
    assert [fault.key for fault in faults_of("traffic")] == list(TRAFFIC)
