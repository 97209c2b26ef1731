"""The chart on a live cluster: install, `helm test`, rights, users at the Service, kills, upgrade, rollback.

Short form unless HEADRACE_CHART=long (`make cluster-chart`), which sends 5,000 requests and more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.config_map_records import config_map_name
from tasks.adapters.object_store import ObjectStore
from tasks.cli.rollout_proof import state_and_ledger_problems
from tasks.contracts.requests import PLANS, TrafficPlan
from tasks.rollout.assignment import bucket_of
from tasks.rollout.exposure_files import read_exposures
from tasks.rollout.exposures import rollout_folder
from tasks.rollout.phases import Decision, Phase
from tasks.rollout.record import Colour, StateRecord
from tests.cluster.built_images import demand_images
from tests.cluster.chart_world import (
    DRAIN_SECONDS,
    LONG,
    MODEL,
    RELEASE,
    ROOT,
    SHADOWS,
    SMALL,
    USED_IMAGES,
    ChartWorld,
    eventually,
    find_program,
    image_of,
    ready,
    restarts,
    told,
)
from tests.cluster.runbook import commands_below, play
from tests.cluster.shop_users import Got
from tests.unit.helm.rendered import NAMESPACE
from tests.unit.helm.rights import Ask
from tests.unit.helm.test_rights import EVERYBODY, TABLE

pytestmark = [pytest.mark.timeout(900)]
RPS = 40.0 if LONG else 20.0
FEWEST_REQUESTS = 5000 if LONG else 300
AGREE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Models:
    """Bundles that a process of its own writes, beside what installs the chart."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def good(self) -> Path:
        return self.folder / "shop/model"

    @property
    def damaged(self) -> Path:
        return self.folder / "damaged/model"

    @property
    def golden(self) -> Path:
        return self.folder / "shop/golden.jsonl"


@pytest.fixture(scope="module")
def writing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """The bundles, being written while the chart is installed."""
    folder = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-m", "tests.cluster.write_shop", str(folder)]
    with (
        (folder / "write.log").open("wb") as log,
        subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process,
    ):
        yield Models(folder=folder, process=process)


@pytest.fixture(scope="module")
def models(writing: Models) -> Models:
    assert writing.process.wait(120) == 0, (writing.folder / "write.log").read_text()[-2000:]
    return writing


@pytest.fixture(scope="module")
def world(cluster: None) -> Iterator[ChartWorld]:
    demand_images(USED_IMAGES)
    scratch = os.environ.get("HEADRACE_SCRATCH")
    folder = Path(tempfile.mkdtemp(prefix="headrace-chart-", dir=scratch))
    made = ChartWorld(
        folder=folder, kubectl_path=find_program("kubectl"), helm_path=find_program("helm")
    )
    try:
        made.prepare()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def notes(world: ChartWorld, writing: Models) -> str:
    """What Helm says once the chart is installed and all of it is ready."""
    return world.apply("install", values_of(world))


def values_of(world: ChartWorld, **more: Any) -> dict[str, Any]:
    """Return the world's values with a comparator beside the users' requests."""
    shadow = {"enabled": True, "percent": 25, "resources": SMALL}
    return world.values(images={"shadow": image_of("tensorflow")}, shadow=shadow, **more)


@pytest.fixture(scope="module")
def served(world: ChartWorld, notes: str, models: Models) -> ChartWorld:
    """The world with a first release."""
    world.state.promote(world.stage(models.good))
    eventually(lambda: world.variants("somebody") == {"stable"}, AGREE_SECONDS, "stable's routes")
    return world


def test_an_install_is_ready_and_says_the_next_step(world: ChartWorld, notes: str) -> None:
    assert f"helm test {RELEASE} --namespace {world.namespace}" in notes
    assert world.settled(), world.state_of_pods()
    assert [restarts(pod) for pod in world.routers()] == [0, 0]
    for colour in Colour:
        assert len(world.slot(colour)) == 2


def test_before_the_first_release_helms_test_finds_none_and_passes(
    world: ChartWorld, notes: str
) -> None:
    said = world.helm("test", RELEASE, "--logs", "--timeout", "120s")
    assert f"{MODEL}: has no release yet: 503" in said


def test_users_get_the_golden_answers_of_a_release_from_the_service(
    served: ChartWorld, models: Models
) -> None:
    with served.users(RPS, models.golden) as got:
        more(got, 100)
    line = told("first release", got())
    assert all(one.right and not one.again for one in got()), line
    assert {one.protocol for one in got()} == {"rest", "grpc"}
    assert {one.variant for one in got()} == {"stable"}
    said = served.helm("test", RELEASE, "--logs", "--timeout", "120s")
    assert f"{MODEL}: serves: 200" in said


# Rights


def test_the_api_grants_what_the_table_of_rights_says_and_nothing_else(
    world: ChartWorld, notes: str
) -> None:
    """Every account, every row: what `kubectl auth can-i --as` asks, by the API's own review."""
    wrong = [
        f"{account}: {ask}: expected {account in may}"
        for ask, may in TABLE.items()
        for account in EVERYBODY
        if granted(world, ask, account) is not (account in may)
    ]
    assert wrong == []


@pytest.mark.parametrize("ask", TABLE, ids=lambda ask: f"{ask.verb} {ask.resource} {ask.name}")
def test_kubectl_says_so_too(world: ChartWorld, notes: str, ask: Ask) -> None:
    """Each row by kubectl itself: one account that may, if any, and one that may not."""
    may_not = next(one for one in EVERYBODY if one not in TABLE[ask])
    for account in (*TABLE[ask][:1], may_not):
        expected = "yes" if account in TABLE[ask] else "no"
        assert can_i(world, ask, account) == expected, account


def placed(world: ChartWorld, namespace: str) -> str:
    """Return the live namespace in place of the table's."""
    live = {NAMESPACE: world.namespace, "airflow": world.airflow_namespace}
    return live.get(namespace, namespace)


def granted(world: ChartWorld, ask: Ask, account: tuple[str, str]) -> bool:
    namespace, name = placed(world, account[0]), account[1]
    resource, _, part = ask.resource.partition("/")
    asked = {
        "verb": ask.verb,
        "group": ask.group,
        "resource": resource,
        "subresource": part,
        "name": ask.name,
        "namespace": placed(world, ask.namespace),
    }
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    spec = {
        "user": f"system:serviceaccount:{namespace}:{name}",
        "groups": [*groups, "system:authenticated"],
        "resourceAttributes": asked,
    }
    review = client.AuthorizationV1Api().create_subject_access_review({"spec": spec})
    return bool(review.status.allowed)


def can_i(world: ChartWorld, ask: Ask, account: tuple[str, str]) -> str:
    resource, _, part = ask.resource.partition("/")
    words = [ask.verb, resource + (f".{ask.group}" if ask.group else "")]
    words[1] += f"/{ask.name}" if ask.name else ""
    words += [f"--subresource={part}"] if part else []
    place = placed(world, ask.namespace)
    words += ["--namespace", place] if place else ["--all-namespaces"]
    who = f"system:serviceaccount:{placed(world, account[0])}:{account[1]}"
    command = [world.kubectl_path, "auth", "can-i", *words, "--as", who]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout.strip().partition(" ")[0]


# A candidate's steps


@pytest.fixture
def in_progress(served: ChartWorld) -> Iterator[ChartWorld]:
    """The world; a release that the test left in progress is rolled back."""
    yield served
    left = served.state.peek().release_id
    if left is not None:
        served.state.roll_back(left)


def begin(world: ChartWorld, release: str, step: int, plan: TrafficPlan) -> None:
    if step > 1:
        world.state.record_verdict(release, step - 1, Decision.PROCEED, numbers={})
    world.state.begin_step(release, step, plan, per_try_timeout_ms=2000)


def agree(world: ChartWorld, user: str, variant: str, seconds: float = AGREE_SECONDS) -> None:
    found = f"both routers giving {user} to {variant}"
    eventually(lambda: world.variants(user) == {variant}, seconds, found)


def test_both_routers_follow_a_candidates_steps_and_its_promotion(
    in_progress: ChartWorld, models: Models
) -> None:
    world = in_progress
    before = world.state.peek().next_release_number
    release = world.stage(models.good)
    with world.users(RPS, models.golden) as got:
        for step in (1, 2, 3):
            user = meet_step(world, release, step, got)
        world.state.record_verdict(release, 3, Decision.SHIP, numbers={})
        rollout = str(world.state.peek().rollout)
        world.state.promote(release)
        agree(world, user, "stable")
        more(got, 50)
    line = told("steps and promotion", got())
    assert all(one.right and not one.again for one in got()), line
    stable = world.state.peek().stable
    assert stable is not None
    assert stable.release_number == before
    ledger = ArtifactStore(ObjectStore(world.store_url), cache=world.folder / "seen")
    assert state_and_ledger_problems(ledger, world.state, world.state.history()) == []
    folder = rollout_folder(world.state_dir, MODEL, rollout)
    in_steps = sum(one.step != "" for one in got())
    eventually(lambda: len(list(read_exposures(folder))) >= in_steps, 30, "all exposures landed")


def meet_step(world: ChartWorld, release: str, step: int, got: Callable[[], list[Got]]) -> str:
    """Begin a step: both routers agree, and users get what their buckets say; return one inside."""
    begin(world, release, step, PLANS["replay"])
    record = world.state.peek()
    salt, share = str(record.salt), PLANS["replay"].steps[step - 1].share_basis_points
    user = world.user_inside()
    agree(world, user, "candidate")
    mine = [one for one in more(got, 100) if one.step == f"{record.rollout}:{step}"]
    assert any(one.variant == "candidate" for one in mine), f"nobody in step {step}"
    for one in mine:
        inside = bucket_of(salt, one.user) < share
        assert one.variant == ("candidate" if inside else "stable"), one
    return user


def more(got: Callable[[], list[Got]], count: int) -> list[Got]:
    """Wait for so many answers more and return them."""
    before = len(got())
    eventually(lambda: len(got()) >= before + count, 60, f"{count} more answers")
    return got()[before:]


def test_a_lease_that_nobody_renews_lapses_to_nobody_and_a_renewal_goes_on(
    in_progress: ChartWorld, models: Models
) -> None:
    world = in_progress
    release = world.stage(models.good)
    begin(world, release, 1, replace(PLANS["replay"], lease_seconds=5))
    user = world.user_inside()
    agree(world, user, "candidate")
    agree(world, user, "stable", 5 + AGREE_SECONDS)
    assert world.state.peek().status.phase is Phase.PAUSED
    assert world.state.history()[-1].who == "keeper"
    world.state.renew(release, 60)
    agree(world, user, "candidate")
    kinds = [entry.kind for entry in world.state.history() if entry.release_id == release]
    assert kinds.count("paused") == 1  # two keepers saw it


def test_a_candidate_that_fails_is_cut_in_seconds_and_costs_no_user(
    in_progress: ChartWorld, models: Models
) -> None:
    world = in_progress
    release = world.stage(models.damaged)
    with world.users(RPS, models.golden) as got:
        begin(world, release, 1, PLANS["replay"])
        begin(world, release, 2, PLANS["replay"])
        seconds = eventually(lambda: world.state.peek().status.share == 0, 60, "a cut to 0 %")
        entry = world.state.history()[-1]
        more(got, 50)
        assert {one.variant for one in more(got, 50)} == {"stable"}
    line = told(f"a damaged candidate, cut after {seconds:.1f} s", got())
    assert (entry.kind, entry.who) == ("cut", "keeper"), entry
    assert any(one.variant == "candidate" for one in got()), line
    assert all(one.right and not one.again for one in got()), line


def test_a_comparator_reports_a_step_to_all_routers_and_its_loss_costs_no_user(
    in_progress: ChartWorld, models: Models
) -> None:
    world = in_progress
    release = world.stage(models.good)
    begin(world, release, 1, PLANS["replay"])
    with world.users(RPS, models.golden) as got:
        agree(world, world.user_inside(), "candidate")
        eventually(lambda: world.compared() >= 20, 120, "20 rankings that were compared")
        assert_same_rankings(world)
        eventually(lambda: len(world.routers_that_tell_of(world.candidate)) == 2, 60, "metrics")

        (pod,) = world.pods(SHADOWS)
        world.delete_pod(pod.metadata.name)
        more(got, 50)
        eventually(lambda: world.all_ready(SHADOWS, 1), 120, "another comparator")
        before = world.shadow_report()["since"]
        anew = "a report of the other comparator"
        eventually(lambda: world.shadow_report()["since"] != before, 60, anew)
        assert_same_rankings(world)
    line = told("a comparator, and its loss", got())
    assert all(one.right and not one.again for one in got()), line


def assert_same_rankings(world: ChartWorld) -> None:
    """Candidate and stable are one bundle here."""
    found, record = world.shadow_report(), world.state.peek()
    assert record.stable is not None
    assert (found["candidate"], found["stable"]) == (world.candidate, record.stable.release_number)
    assert found["compared"] == found["equal"] > 0


# What is lost


def test_a_deleted_record_comes_back_from_the_ledger_by_the_runbook_and_users_keep_their_stable(
    in_progress: ChartWorld, models: Models
) -> None:
    world = in_progress
    release = world.stage(models.good)
    begin(world, release, 1, PLANS["replay"])
    user = world.user_inside()
    agree(world, user, "candidate")
    before = world.state.read()
    directly, by_kubectl = commands_below("**A record from the ledger.**")
    with world.users(RPS, models.golden) as got:
        world.kubectl("delete", "configmap", config_map_name(MODEL))
        more(got, 50)  # the routers keep what they know
        assert world.records.read(MODEL) is None
        play(world, directly)
        assert_back(world, before, user)
        assert "expected no state record" in play(world, directly, refused=True)

        world.state.renew(release, 60)
        agree(world, user, "candidate")
        empty = [{"op": "remove", "path": "/data"}]
        world.core.patch_namespaced_config_map(config_map_name(MODEL), world.namespace, empty)
        play(world, by_kubectl)
        assert_back(world, before, user)

        anew = world.routers()[0].metadata.name
        world.core.delete_namespaced_pod(anew, world.namespace)
        eventually(lambda: len(world.routers()) == 2, 60, "one that knows no other record")
        world.settle()
        more(got, 50)
    line = told("a record deleted and restored", got())
    assert all(one.right and not one.again for one in got()), line
    world.state.renew(release, 60)
    agree(world, user, "candidate")
    assert "conflict" in play(world, by_kubectl, refused=True)  # the record went on meanwhile
    ledger = ArtifactStore(ObjectStore(world.store_url), cache=world.folder / "seen")
    assert state_and_ledger_problems(ledger, world.state, world.state.history()) == []


def assert_back(world: ChartWorld, before: StateRecord, user: str) -> None:
    """The record tells all that the ledger tells; without a lease, keepers give the candidate nobody."""
    agree(world, user, "stable")
    eventually(lambda: world.state.peek().status.phase is Phase.PAUSED, 10, "the keeper's pause")
    now = world.state.peek()
    assert (now.stable, now.slots, now.salt) == (before.stable, before.slots, before.salt)
    told_again = [entry for entry in world.state.history() if entry.sequence <= before.sequence]
    assert told_again[-1].digest == before.head


# What ends under load


def test_killed_pods_and_keepers_cost_no_user(served: ChartWorld, models: Models) -> None:
    served.settle()
    with served.users(RPS, models.golden) as got:
        router = served.routers()[0].metadata.name
        served.kill_keeper(router)
        more(got, 100)
        assert router in [pod.metadata.name for pod in served.routers() if ready(pod)]

        stable = served.state.peek().roles.stable
        assert stable is not None
        served.delete_pod(served.slot(stable)[0].metadata.name)
        eventually(lambda: len(served.slot(stable)) == 2, 60, "another slot pod")
        served.settle()

        before_the_router = len(got())
        served.delete_pod(router)
        eventually(lambda: len(served.routers()) == 2, 60, "another router pod")
        served.settle()
        eventually(lambda: len(got()) >= FEWEST_REQUESTS, 600, "enough requests")
    line = told("kills", got())
    assert all(one.right for one in got()), line
    # Only a router that was not asked to end leaves requests without an answer: clients ask again.
    assert not any(one.again for one in got()[:before_the_router]), line


def test_an_upgrade_and_a_rollback_cost_no_user_and_leave_the_record(
    served: ChartWorld, models: Models
) -> None:
    served.settle()
    before = served.records.read(MODEL)
    pods = running(served)
    changed = values_of(
        served,
        router={"concurrency": 2},
        serving={"drainSeconds": DRAIN_SECONDS + 1},
        quota={"hard": {"pods": "50"}},
    )
    with served.users(RPS, models.golden) as got:
        served.apply("upgrade", changed)
        # Helm waits for the new ones; the old ones may go on ending while all are replaced again.
        eventually(lambda: pods.isdisjoint(running(served)), 60, "other pods in place of all")
        record = served.core.read_namespaced_config_map(config_map_name(MODEL), served.namespace)
        assert record.metadata.annotations["helm.sh/resource-policy"] == "keep"  # restored or not
        served.roll_back_chart()
        served.settle()
        eventually(lambda: len(got()) >= FEWEST_REQUESTS, 600, "enough requests")
    line = told("upgrade and rollback", got())
    assert all(one.right for one in got()), line
    assert not any(one.again for one in got()), line
    assert served.records.read(MODEL) == before


def running(world: ChartWorld) -> set[str]:
    """Return the uids of all pods of slots and routers that are not about to end."""
    slots = [pod for colour in Colour for pod in world.slot(colour)]
    return {pod.metadata.uid for pod in (*world.routers(), *slots)}
