"""How StageOperator makes, follows, takes up and ends its pod."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    AirflowTaskTimeout,
)
from headrace_airflow import pod_life, pod_stage_operator
from headrace_airflow.pod_api import Patience, PodApi
from headrace_airflow.pod_identity import REQUEST, TaskKey
from headrace_airflow.pod_news import PodNews, utc_now
from headrace_airflow.pod_stage_operator import StageOperator

from tasks.contracts.stage_io import StageRequest
from tests.fake_kubernetes import eventually, status
from tests.unit.airflow.pod_world import World


def test_green_is_a_sealed_manifest_and_its_address_is_passed_on(world: World) -> None:
    sentence = world.sealed()
    world.ends(0, sentence)
    address = world.operator().execute(world.context)
    assert f"sealed {address} " in sentence
    assert world.ti.pushed == {"return_value": address}
    assert world.record.outcome == "sealed"
    assert world.fake.pods == {}


@pytest.mark.parametrize(
    "sentence",
    ("", "done", f"sealed release/{'a' * 64} manifest sha256:{'b' * 64} | promoted"),
    ids=("silence", "a sentence without evidence", "evidence of what is not there"),
)
def test_a_pod_that_ends_well_without_sealed_work_is_not_green(world: World, sentence: str) -> None:
    world.ends(0, sentence)
    with pytest.raises(AirflowException, match="is not green"):
        world.operator().execute(world.context)
    assert "return_value" not in world.ti.pushed


@pytest.mark.parametrize(
    ("code", "error"),
    (
        pytest.param(1, AirflowException, id="a crash may be retried"),
        pytest.param(3, AirflowFailException, id="a refusal is final"),
        pytest.param(4, AirflowFailException, id="a bad request is final"),
    ),
)
def test_exit_codes_are_told_apart(world: World, code: int, error: type[Exception]) -> None:
    world.ends(code, "no disk")
    with pytest.raises(error, match="no disk") as raised:
        world.operator().execute(world.context)
    assert type(raised.value) is error
    assert world.fake.pods == {}


def test_a_retry_after_a_crash_starts_the_next_attempt(world: World) -> None:
    world.ends(1, "no disk")
    with pytest.raises(AirflowException):
        world.operator().execute(world.context)
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    assert [one["metadata"]["name"][-2:] for one in world.fake.created] == ["-1", "-2"]


def test_the_pod_carries_its_request_and_its_marks(world: World) -> None:
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    (pod,) = world.fake.created
    text = pod["metadata"]["annotations"][REQUEST]
    assert StageRequest.parse(text, "pod").settings == {"n": 1}
    spec, base = pod["spec"], pod["spec"]["containers"][0]
    assert (base["image"], base["args"]) == (
        "r/headrace-rollout:1",
        ["promote_release", "/headrace/request.json"],
    )
    environment = {one["name"]: one["value"] for one in base["env"]}
    assert environment["HEADRACE_STORE"] == world.deployment.store_url
    assert spec["activeDeadlineSeconds"] == 600
    assert (spec["restartPolicy"], spec["priorityClassName"]) == ("Never", "headrace-steer")
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert base["securityContext"]["readOnlyRootFilesystem"] is True
    assert len(spec["containers"]) == 1
    assert TaskKey.of_pod(pod) == TaskKey.of(world.context)


def test_a_template_brings_the_clusters_own_volumes(world: World, tmp_path: Path) -> None:
    template = tmp_path / "pod.yaml"
    template.write_text(
        "apiVersion: v1\nkind: Pod\nspec:\n"
        "  volumes: [{name: store, hostPath: {path: /srv}}]\n"
        "  containers: [{name: base, volumeMounts: [{name: store, mountPath: /srv}],"
        " env: [{name: MORE, value: x}]}]\n"
    )
    assert world.deployment.pods is not None
    pods = replace(world.deployment.pods, template=template)
    world.deployment = replace(world.deployment, pods=pods)
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    spec = world.fake.created[0]["spec"]
    assert {one["name"] for one in spec["volumes"]} >= {"store", "headrace-request"}
    assert "MORE" in {one["name"] for one in spec["containers"][0]["env"]}
    assert spec["containers"][0]["image"] == "r/headrace-rollout:1"


def test_a_request_that_the_api_cannot_hold_is_refused_before_any_pod(world: World) -> None:
    operator = world.operator(call={"settings_from": lambda _: {"large": "x" * 200_000}})
    with pytest.raises(AirflowFailException, match="at most 200000 bytes"):
        operator.execute(world.context)
    assert world.fake.created == []


def cut_off_after_creation(world: World) -> str:
    """Run to where the pod's uid would be kept, and nothing is kept; return the pod's name."""

    def crash(key: str, value: Any) -> None:
        raise SystemExit(9)

    world.state.set = crash  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        world.operator().execute(world.context)
    del world.state.set
    (name,) = world.fake.pods
    return name


def test_a_pod_made_before_a_crash_is_adopted(world: World) -> None:
    name = cut_off_after_creation(world)
    threading.Timer(0.2, world.fake.end, (name, 0, world.sealed())).start()
    world.operator().execute(world.context)
    assert len(world.fake.created) == 1


def test_a_pod_made_before_a_crash_and_a_clear_is_replaced(world: World) -> None:
    name = cut_off_after_creation(world)
    world.ti.max_tries = 5
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    assert [one["metadata"]["name"][-2:] for one in world.fake.created] == ["-1", "-2"]
    assert name not in world.fake.pods


@pytest.mark.parametrize("state", ("failed", None))
def test_a_person_who_ends_a_try_cut_off_after_creation_ends_its_pod(
    world: World, state: str | None
) -> None:
    cut_off_after_creation(world)
    world.in_airflow = state
    operator = world.operator()
    operator.on_kill()
    with pytest.raises(AirflowException):
        operator.execute(world.context)
    assert world.fake.pods == {}


def cut_off_after_seal(world: World) -> None:
    """Run to the removal of the pod, where the worker is lost."""

    def lost(*_: object) -> None:
        raise SystemExit(9)

    world.ends(0, world.sealed())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PodApi, "delete_own", lost)
        with pytest.raises(SystemExit):
            world.operator().execute(world.context)
    assert len(world.fake.pods) == 1


def test_a_try_cut_off_after_the_seal_has_the_work_without_another_pod(world: World) -> None:
    cut_off_after_seal(world)
    world.ti.pushed.clear()
    address = world.operator().execute(world.context)
    assert world.ti.pushed == {"return_value": address}
    assert len(world.fake.created) == 1
    assert world.fake.pods == {}


def test_a_clear_after_the_seal_starts_another_pod(world: World) -> None:
    cut_off_after_seal(world)
    world.ti.max_tries = 5
    world.operator().execute(world.context)
    assert len(world.fake.created) == 2
    assert world.fake.pods == {}


def test_what_was_sealed_and_is_gone_is_not_green(world: World) -> None:
    cut_off_after_seal(world)
    (manifest,) = Path(world.deployment.store_url.removeprefix("file://")).rglob("manifest.json")
    manifest.unlink()
    with pytest.raises(AirflowException, match="is not green"):
        world.operator().execute(world.context)


def test_an_api_that_goes_away_after_the_seal_does_not_fail_the_task(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_stage_operator, "Patience", lambda **_: Patience(seconds=0))
    world.ends(0, world.sealed())
    world.fake.fault = lambda method, path: (503, {}, {}) if method == "DELETE" else None
    assert world.operator().execute(world.context)
    assert len(world.fake.pods) == 1  # for the reaper


def test_a_stranger_under_our_name_is_left_alone(world: World) -> None:
    name = TaskKey.of(world.context).pod_name(1)
    stranger = {"metadata": {"name": name, "uid": "theirs"}, "status": {"phase": "Running"}}
    world.fake.pods[name] = stranger
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    assert world.fake.pods == {name: stranger}
    assert [one["metadata"]["name"][-2:] for one in world.fake.created] == ["-2"]


def test_another_pod_under_our_pods_name_means_that_ours_is_gone(world: World) -> None:
    replaced: dict[str, Any] = {}

    def act(name: str) -> None:
        if name.endswith("-1"):
            replaced.update({"metadata": {"name": name, "uid": "theirs"}, "status": {}})
            world.fake.pods[name] = replaced
        else:
            world.fake.end(name, 0, sentence)

    sentence = world.sealed()
    world.when_created(act)
    world.operator().execute(world.context)
    assert list(world.fake.pods.values()) == [replaced]
    assert world.record.attempt == 2


def test_disruptions_have_their_own_budget(world: World) -> None:
    world.when_created(lambda name: world.fake.say(name, phase="Failed", reason="Evicted"))
    with pytest.raises(AirflowException, match=r"disrupted \(3 of 3\): Evicted"):
        world.operator().execute(world.context)
    assert len(world.fake.created) == 3
    assert world.fake.pods == {}


def test_a_deleted_pod_is_replaced_without_a_retry(world: World) -> None:
    def act(name: str) -> None:
        if name.endswith("-1"):
            del world.fake.pods[name]
        else:
            world.fake.end(name, 0, sentence)

    sentence = world.sealed()
    world.when_created(act)
    world.operator().execute(world.context)
    assert world.record.attempt == 2


def killed(world: World, operator: StageOperator, error: type[Exception]) -> None:
    threading.Thread(
        target=lambda: (eventually(lambda: world.fake.pods), operator.on_kill())
    ).start()
    with pytest.raises(error):
        operator.execute(world.context)


def test_a_workers_shutdown_leaves_the_pod_to_the_next_try(world: World) -> None:
    world.when_created(lambda name: world.fake.say(name, phase="Running"))
    killed(world, world.operator(), AirflowRescheduleException)
    (name,) = world.fake.pods
    threading.Timer(0.2, world.fake.end, (name, 0, world.sealed())).start()
    world.operator().execute(world.context)
    assert len(world.fake.created) == 1
    assert world.fake.pods == {}


@pytest.mark.parametrize("state", ("failed", "success", "restarting", None))
def test_a_person_who_ends_the_task_ends_its_pod(world: World, state: str | None) -> None:
    world.in_airflow = state
    world.when_created(lambda name: world.fake.say(name, phase="Running"))
    killed(world, world.operator(), AirflowException)
    assert world.fake.pods == {}
    assert world.record.outcome == "removed"


def test_a_kill_before_anything_starts_nothing(world: World) -> None:
    operator = world.operator()
    operator.on_kill()
    world.fake.fault = lambda method, path: (500, {}, {}) if method == "POST" else None
    with pytest.raises(AirflowRescheduleException):
        operator.execute(world.context)
    assert world.fake.created == []


def test_a_cleared_task_does_not_take_up_the_pod_of_before(world: World) -> None:
    world.when_created(lambda name: world.fake.say(name, phase="Running"))
    killed(world, world.operator(), AirflowRescheduleException)
    (first,) = world.fake.pods
    world.ti.max_tries = 5  # what Airflow does on a clear
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    assert [one["metadata"]["name"][-2:] for one in world.fake.created] == ["-1", "-2"]
    assert first not in world.fake.pods


def test_another_request_does_not_take_up_the_pod_of_before(world: World) -> None:
    world.when_created(lambda name: world.fake.say(name, phase="Running"))
    killed(world, world.operator(), AirflowRescheduleException)
    world.ends(0, world.sealed())
    world.operator(call={"settings_from": lambda _: {"n": 2}}).execute(world.context)
    assert [one["metadata"]["name"][-2:] for one in world.fake.created] == ["-1", "-2"]


def test_a_timeout_of_the_task_removes_the_pod(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alarm(self: Any) -> PodNews:
        raise AirflowTaskTimeout("12 h")

    monkeypatch.setattr(pod_life.PodLife, "follow", alarm)
    with pytest.raises(AirflowTaskTimeout):
        world.operator().execute(world.context)
    assert world.fake.pods == {}


def test_a_full_quota_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [1]

    def fault(method: str, path: str) -> Any:
        if method == "POST" and left and left.pop():
            return 403, status(403, "Forbidden", message="exceeded quota: pods=1"), {}
        return None

    world.fake.fault = fault
    monkeypatch.setattr(StageOperator, "_pause", lambda self, seconds: None)
    sentence = world.sealed()
    world.fake.on_create = lambda pod: world.fake.end(pod["metadata"]["name"], 0, sentence)
    world.operator().execute(world.context)
    assert len(world.fake.created) == 1


def test_a_queue_that_takes_too_long_removes_the_pod(world: World) -> None:
    assert world.deployment.pods is not None
    pods = replace(world.deployment.pods, queue_seconds=1)
    world.deployment = replace(world.deployment, pods=pods)
    with pytest.raises(AirflowException, match="had no node for"):
        world.operator().execute(world.context)
    assert world.fake.pods == {}


def test_a_pod_of_a_silent_node_fails_the_task_and_gets_no_second_beside_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deletion_without_an_end(method: str, path: str) -> Any:
        if method != "DELETE":
            return None
        (pod,) = world.fake.pods.values()
        pod["metadata"].setdefault("deletionTimestamp", utc_now().isoformat())
        return 200, pod, {}

    def long_due(name: str) -> None:
        asked = (utc_now() - timedelta(seconds=400)).isoformat()
        world.fake.pods[name]["metadata"]["deletionTimestamp"] = asked
        world.fake.say(name, phase="Running")

    world.fake.fault = deletion_without_an_end
    world.when_created(long_due)
    with pytest.raises(AirflowException, match="so it may still work: see that the node is up"):
        world.operator().execute(world.context)
    monkeypatch.setattr(pod_life, "GONE_SECONDS", 0.3)
    with pytest.raises(AirflowException, match="no other is started beside it"):
        world.operator().execute(world.context)
    assert len(world.fake.created) == 1
    world.fake.pods.clear()  # a person deleted the node
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    assert len(world.fake.created) == 2


def test_a_skipped_task_makes_no_pod(world: World) -> None:
    operator = world.operator(call={"skip_when": lambda _: "nothing to do"})
    with pytest.raises(AirflowSkipException, match="nothing to do"):
        operator.execute(world.context)
    assert world.fake.created == []


def test_the_local_runtime_does_not_load_the_pod_operator() -> None:
    script = (
        "import sys, headrace_airflow.stage_operator\n"
        "assert 'airflow.providers.cncf.kubernetes.operators.pod' not in sys.modules\n"
        "assert 'kubernetes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
