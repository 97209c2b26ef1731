from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)
from headrace_airflow import pod_life, pod_stage_operator
from headrace_airflow.compute_choice import read_compute
from headrace_airflow.deployment import Deployment, Runtime
from headrace_airflow.pod_api import Patience, PodApi
from headrace_airflow.pod_identity import RECORD_KEY, REQUEST, PodRecord, TaskKey
from headrace_airflow.pod_news import PodNews, PodState
from headrace_airflow.pod_settings import PodSettings
from headrace_airflow.pod_stage_operator import StageOperator
from headrace_airflow.pod_trigger import PodTrigger
from headrace_airflow.stage_call import StageCall

from tasks.contracts.artifacts import termination_sentence
from tasks.contracts.image_tags import image_tag
from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import Stage
from tests.fake_kubernetes import FakeKubernetes, eventually, node, serving, status

RUN_MADE = datetime(2026, 11, 25, tzinfo=UTC)


class TaskInstance:
    """What the operator asks of its task instance."""

    dag_id, run_id, task_id, map_index = "d", "r", "promote_release", -1

    def __init__(self) -> None:
        self.pushed: dict[str, str] = {}
        self.max_tries, self.try_number = 2, 1

    def xcom_pull(self, *, task_ids: str) -> None:
        return None

    def xcom_push(self, *, key: str, value: str) -> None:
        self.pushed[key] = value


class StateStore(dict[str, Any]):
    """Airflow's task state store: it outlives the tries."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


class World:
    """One task instance over its tries, a store, and a Kubernetes that does as told."""

    def __init__(self, fake: FakeKubernetes, deployment: Deployment, sealer: Any) -> None:
        self.fake, self.deployment, self.sealer = fake, deployment, sealer
        self.ti, self.state = TaskInstance(), StateStore()
        self.in_airflow: str | None = "running"
        self.stage, self.params = Stage.PROMOTE_RELEASE, dict[str, Any]()

    def operator(self, *, deferrable: bool = False, **more: Any) -> StageOperator:
        call = StageCall(stage=self.stage, settings={"n": 1}, **more.pop("call", {}))
        return StageOperator(
            call=call,
            deployment=self.deployment,
            task_id="promote_release",
            retries=2,
            deferrable=deferrable,
            **more,
        )

    @property
    def context(self) -> dict[str, Any]:
        return {
            "ti": self.ti,
            "run_id": "r",
            "params": self.params,
            "dag": SimpleNamespace(),
            "dag_run": SimpleNamespace(run_after=RUN_MADE),
            "task_state_store": self.state,
        }

    @property
    def record(self) -> PodRecord:
        return PodRecord.parse(self.state[RECORD_KEY])

    def sealed(self) -> str:
        manifest = self.sealer.seal(self.stage, {"release.json": "{}"})
        return termination_sentence(manifest, "promoted")

    def when_created(self, act: Callable[[str], None]) -> None:
        """Act on each pod as soon as it is there, from outside, as a cluster does."""

        def later(pod: dict[str, Any]) -> None:
            threading.Timer(0.05, act, (pod["metadata"]["name"],)).start()

        self.fake.on_create = later

    def ends(self, exit_code: int, sentence: str) -> None:
        self.when_created(lambda name: self.fake.end(name, exit_code, sentence))


@pytest.fixture
def world(
    tmp_path: Path, deployment: Deployment, sealer: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    fake = FakeKubernetes()
    pods = PodSettings(
        namespace="ns",
        images="r/headrace-{image}:1",
        template=None,
        deferrable=False,
        queue_seconds=60,
        start_seconds=60,
        poll_seconds=0.05,
        disruptions=3,
    )
    of_pods = replace(deployment, runtime=Runtime.KUBERNETES, pods=pods)
    made = World(fake, of_pods, sealer)
    monkeypatch.setattr(pod_stage_operator, "state_in_airflow", lambda ti: made.in_airflow)
    monkeypatch.setattr(pod_life, "DRAIN_SECONDS", 1.0)
    with serving(fake, tmp_path) as config:
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield made


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
    assert (spec["restartPolicy"], spec["priorityClassName"]) == ("Never", "headrace-batch")
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


def test_a_pod_made_before_a_crash_is_adopted(world: World) -> None:
    world.fake.fault = lambda method, path: None
    operator = world.operator()
    cut_off = [True]

    def crash(key: str, value: Any) -> None:
        world.state[key] = value
        if value["uid"] is not None and cut_off.pop():
            world.state[key] = {**value, "uid": None}
            raise SystemExit(9)

    world.state.set = crash  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        operator.execute(world.context)
    del world.state.set
    (name,) = world.fake.pods
    threading.Timer(0.2, world.fake.end, (name, 0, world.sealed())).start()
    world.operator().execute(world.context)
    assert len(world.fake.created) == 1


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


def test_a_skipped_task_makes_no_pod(world: World) -> None:
    operator = world.operator(call={"skip_when": lambda _: "nothing to do"})
    with pytest.raises(AirflowSkipException, match="nothing to do"):
        operator.execute(world.context)
    assert world.fake.created == []


def on_gpu_nodes(world: World) -> None:
    """Let the stage's place be the pool for training."""
    text = '{"format": "compute_profiles/1", "stages": {"train_model": {"profile": "gpu-train"}}}'
    world.deployment = replace(world.deployment, compute=read_compute(text, "test"))
    world.stage = Stage.TRAIN_MODEL


def test_the_deployments_pool_decides_node_and_image(world: World) -> None:
    on_gpu_nodes(world)
    world.fake.nodes = [node("gpu", {"headrace/pool": "gpu-train"})]
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    spec = world.fake.created[0]["spec"]
    assert spec["nodeSelector"] == {"headrace/pool": "gpu-train"}
    assert spec["containers"][0]["image"] == "r/headrace-torch-cuda:1"
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_pod_takes_the_image_that_was_built_from_the_code_that_airflow_has(world: World) -> None:
    assert world.deployment.pods is not None
    pods = replace(world.deployment.pods, images="r/{image}:{tag}")
    world.deployment = replace(world.deployment, pods=pods)
    world.ends(0, world.sealed())
    operator = world.operator()
    assert operator.image == "r/rollout:{tag}"  # a parse reads no sources
    operator.execute(world.context)
    image = world.fake.created[0]["spec"]["containers"][0]["image"]
    assert image == operator.image == f"r/rollout:{image_tag('rollout')}"


def test_a_pod_that_no_node_can_ever_hold_is_refused_before_it_is_made(world: World) -> None:
    on_gpu_nodes(world)
    with pytest.raises(
        AirflowFailException, match="1 without the label headrace/pool=gpu-train; make"
    ):
        world.operator().execute(world.context)
    assert world.fake.created == []


def test_who_may_not_see_nodes_waits_instead(world: World) -> None:
    on_gpu_nodes(world)
    world.fake.fault = lambda method, path: (
        (403, status(403, "Forbidden", kind="nodes"), {}) if "/nodes" in path else None
    )
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    assert len(world.fake.created) == 1


@pytest.mark.parametrize(
    ("asked", "selector", "image"),
    (
        pytest.param(None, None, "torch", id="the deployment's own"),
        pytest.param(
            {"train_model": {"profile": "spot-gpu"}}, "spot-gpu", "torch-cuda", id="another pool"
        ),
        pytest.param({"build_features": {"cpu_cores": 3}}, None, "torch", id="of another stage"),
    ),
)
def test_a_runs_form_chooses_the_pool_and_with_it_the_image(
    world: World, asked: Any, selector: str | None, image: str
) -> None:
    world.stage = Stage.TRAIN_MODEL
    world.params = {"compute": asked}
    world.fake.nodes.append(node("spot", {"headrace/pool": "spot-gpu"}))
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    spec = world.fake.created[0]["spec"]
    assert spec["nodeSelector"].get("headrace/pool") == selector
    assert spec["containers"][0]["image"] == f"r/headrace-{image}:1"


def test_a_runs_form_cannot_go_beyond_its_deployment(world: World) -> None:
    world.params = {"compute": {"promote_release": {"profile": "gpu-train"}}}
    with pytest.raises(AirflowFailException, match="promote_release"):
        world.operator().execute(world.context)
    assert world.fake.created == []


def deferred(world: World) -> PodTrigger:
    with pytest.raises(TaskDeferred) as raised:
        world.operator(deferrable=True).execute(world.context)
    path, values = raised.value.trigger.serialize()
    assert path == "headrace_airflow.pod_trigger.PodTrigger"
    assert raised.value.method_name == "resume"
    return PodTrigger(**values)


async def first_event(trigger: PodTrigger) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("no event")


def test_a_deferred_task_is_green_by_the_triggers_news_though_the_pod_is_gone(
    world: World,
) -> None:
    import asyncio

    trigger = deferred(world)
    (name,) = world.fake.pods
    world.fake.end(name, 0, world.sealed())
    event = asyncio.run(first_event(trigger))
    world.fake.pods.clear()
    address = world.operator(deferrable=True).resume(world.context, event)
    assert world.ti.pushed == {"return_value": address}


def test_a_disrupted_pod_is_replaced_and_waited_for_again(world: World) -> None:
    import asyncio

    trigger = deferred(world)
    world.fake.pods.clear()
    event = asyncio.run(first_event(trigger))
    assert PodNews.parse(event["news"]).state is PodState.DISRUPTED
    with pytest.raises(TaskDeferred):
        world.operator(deferrable=True).resume(world.context, event)
    assert world.record.attempt == 2


def test_news_of_an_older_attempt_are_not_believed(world: World) -> None:
    deferred(world)
    news = PodNews(uid="older", state=PodState.ENDED, sentence=world.sealed())
    with pytest.raises(TaskDeferred):
        world.operator(deferrable=True).resume(world.context, {"news": news.to_json()})
    assert "return_value" not in world.ti.pushed


def test_a_trigger_that_lost_the_api_hands_back(world: World) -> None:
    deferred(world)
    with pytest.raises(TaskDeferred):
        world.operator(deferrable=True).resume(world.context, {"away": "20 s"})
    assert len(world.fake.created) == 1


@pytest.mark.parametrize(
    ("state", "stays"),
    (("failed", False), (None, False), ("deferred", True), ("running", True)),
    ids=("marked failed", "deleted run", "another triggerer has it", "another try has it"),
)
def test_a_trigger_that_is_cancelled_removes_the_pod_of_an_ended_task_only(
    world: World, monkeypatch: pytest.MonkeyPatch, state: str | None, stays: bool
) -> None:
    import asyncio

    trigger = deferred(world)
    monkeypatch.setattr(PodTrigger, "_state_in_airflow", lambda self: state)
    asyncio.run(trigger.on_kill())
    assert bool(world.fake.pods) is stays


@pytest.mark.parametrize(
    ("state", "stays"),
    (("failed", False), ("deferred", True), (AirflowException("away"), True)),
    ids=("marked failed", "the task listens", "Airflow does not say"),
)
def test_a_pod_that_ends_when_nobody_listens_any_more_is_removed(
    world: World, monkeypatch: pytest.MonkeyPatch, state: Any, stays: bool
) -> None:
    import asyncio

    def said(self: PodTrigger) -> str:
        if isinstance(state, Exception):
            raise state
        return str(state)

    trigger = deferred(world)
    monkeypatch.setattr(PodTrigger, "_state_in_airflow", said)
    (name,) = world.fake.pods
    world.fake.end(name, 0, world.sealed())
    assert "news" in asyncio.run(first_event(trigger))
    assert bool(world.fake.pods) is stays


def test_the_local_runtime_does_not_load_the_pod_operator() -> None:
    script = (
        "import sys, headrace_airflow.stage_operator\n"
        "assert 'airflow.providers.cncf.kubernetes.operators.pod' not in sys.modules\n"
        "assert 'kubernetes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_a_pod_gets_the_compute_that_the_deployment_names_for_its_stage(world: World) -> None:
    assert world.operator().compute.cpu_cores == 0.5
    text = '{"format": "compute_profiles/1", "stages": {"promote_release": {"cpu_cores": 3}}}'
    world.deployment = replace(world.deployment, compute=read_compute(text, "compute.json"))
    assert world.operator().compute.cpu_cores == 3
