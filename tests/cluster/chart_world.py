"""The chart installed on a live cluster: slots and routers as pods, users at the router's Service.

One node: the state volume is a folder of it, which this process sees as well and stages bundles into.
Records lie in the API; this process changes them as rollout stages do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from headrace_airflow.compute_profiles import priority_class_objects
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tasks.adapters.config_map_records import ConfigMapRecords
from tasks.adapters.kube_api import the_api
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.slot_hosts import GRPC_PORT, REST_PORT, slot_folder
from tasks.rollout.assignment import bucket_of
from tasks.rollout.comparison import SHADOW_REPORT
from tasks.rollout.exposures import rollout_folder
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, open_state
from tasks.serving.slot_check import LOAD_SECONDS, Staged, wait_until_loaded
from tasks.serving.slot_folder import Slot, publish
from tasks.serving.version_states import VersionId
from tests.cluster.built_images import image_name, image_names, load_images
from tests.cluster.shop_users import Got, read_got
from tests.unit.helm.rendered import CHART, ONE_NODE

ROOT = Path(__file__).resolve().parents[2]
MODEL, RELEASE = "recommender", "reco"
USED_IMAGES = ("rollout", "tensorflow")
LONG = os.environ.get("HEADRACE_CHART") == "long"
READY_SECONDS = 420
DRAIN_SECONDS = 5
ROUTER_PORT = 8080
USER_OF_PODS = 10001
METRICS_PORT = 9102
SMALL = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
SHADOWS = "app.kubernetes.io/component=shadow"
_SLOTS, _ROUTERS = "app.kubernetes.io/component=slot", "app.kubernetes.io/component=router"
# What kills a keeper inside its container, as the kernel does for memory: its shell lives on.
_KILL_KEEPER = """
import os, pathlib, signal
for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    words = file.read_bytes().split(b"\\0")
    if any(one.endswith(b"/headrace") and two == b"keeper" for one, two in zip(words, words[1:])):
        os.kill(int(file.parent.name), signal.SIGKILL)
        print("killed", file.parent.name)
"""


def find_program(name: str) -> str:
    """Return kubectl or helm, on PATH or beside KUBECONFIG, or skip and say so."""
    beside = Path(os.environ["KUBECONFIG"]).parent / "bin"
    found = shutil.which(name) or shutil.which(name, path=str(beside))
    if found is None:
        pytest.skip(f"no {name}: put it on PATH, or into {beside}, where the test cluster has it")
    return found


@dataclass(kw_only=True)
class ChartWorld:
    """One release of the chart in a namespace of its own, and what is asked of it."""

    folder: Path
    kubectl_path: str
    helm_path: str
    images: Collection[str] = USED_IMAGES
    namespace: str = field(default_factory=lambda: f"headrace-chart-{uuid.uuid4().hex[:6]}")
    seconds: dict[str, float] = field(default_factory=dict)
    core: Any = field(init=False)
    _with_classes: bool = field(init=False)
    _releases: int = 0

    def __post_init__(self) -> None:
        config.load_kube_config(os.environ["KUBECONFIG"])
        self.core = client.CoreV1Api()
        classes = client.SchedulingV1Api()
        there = {one.metadata.name for one in classes.list_priority_class().items}
        wanted = {one["metadata"]["name"]: one for one in priority_class_objects()}
        self._with_classes = there.isdisjoint(wanted)
        if not self._with_classes:  # another run's, perhaps of older code: what it lacks is made
            for name in wanted.keys() - there:
                classes.create_priority_class(wanted[name])

    # --- up and down ---

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def airflow_namespace(self) -> str:
        return f"{self.namespace}-airflow"

    def prepare(self) -> None:
        self.state_dir.mkdir()
        os.chown(self.state_dir, USER_OF_PODS, USER_OF_PODS)
        for name in (self.namespace, self.airflow_namespace):
            self.core.create_namespace({"metadata": {"name": name}})
        load_images(self.core, self.folder, self.images)

    def close(self) -> None:
        with suppress(subprocess.SubprocessError):
            self.helm("uninstall", RELEASE)
        for name in (self.namespace, self.airflow_namespace):
            with suppress(ApiException):
                self.core.delete_collection_namespaced_pod(name, grace_period_seconds=0)
                self.core.delete_namespace(name)
        with suppress(ApiException):
            self.core.delete_persistent_volume(f"headrace-state-{self.namespace}")
        shutil.rmtree(self.folder, ignore_errors=True)

    def values(self, **more: Any) -> dict[str, Any]:
        """Return what stands over ci/02: this code's images, little CPU, two pods of each."""
        values = {
            "images": {
                "stages": image_names(),
                "pullPolicy": "IfNotPresent",
                "rollout": image_of("rollout"),
                "serving": image_of("tensorflow"),
            },
            "state": {"hostPath": str(self.state_dir)},
            "airflow": {"namespace": self.airflow_namespace},
            "priorityClasses": {"create": self._with_classes},
            "reaper": {"schedule": "0 0 1 1 *"},  # who wants it sooner starts a Job of it
            "serving": {
                "replicas": 2,
                "args": [
                    "--bind_address=0.0.0.0",
                    f"--drain_seconds={DRAIN_SECONDS}",
                    "--num_load_threads=1",
                    "--max_num_load_retries=0",
                ],
                "drainSeconds": DRAIN_SECONDS,
                "resources": SMALL,
            },
            "router": {
                "drainSeconds": DRAIN_SECONDS,
                "concurrency": 1,
                "resources": SMALL,
                "keeperResources": SMALL,
            },
        }
        return _merged(values, more)

    def apply(self, what: str, values: Mapping[str, Any]) -> str:
        """Install or upgrade with these values and wait until all is ready; return what Helm says."""
        file = self.folder / "values.yaml"
        file.write_text(yaml.safe_dump(dict(values)))
        case = CHART / "ci" / ONE_NODE
        return self._timed(
            *(what, RELEASE, str(CHART), "--wait", "--timeout", f"{READY_SECONDS}s"),
            *("-f", str(case), "-f", str(file)),
        )

    def roll_back_chart(self) -> str:
        return self._timed("rollback", RELEASE, "--wait", "--timeout", f"{READY_SECONDS}s")

    def _timed(self, what: str, *words: str) -> str:
        began = time.monotonic()
        said = self.helm(what, *words)
        self.seconds[what] = time.monotonic() - began
        print(f"helm {what}: {self.seconds[what]:.1f} s")
        return said

    def helm(self, *words: str) -> str:
        return self._run(self.helm_path, *words)

    def kubectl(self, *words: str) -> str:
        return self._run(self.kubectl_path, *words)

    def _run(self, program: str, *words: str) -> str:
        command = [program, *words, "--namespace", self.namespace]
        if "--" in words:  # what follows belongs to the program in the pod
            place = words.index("--")
            command = [program, *words[:place], "--namespace", self.namespace, *words[place:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=READY_SECONDS + 60)
        if done.returncode:
            pods = "\n".join(self.state_of_pods())
            raise AssertionError(f"{command[1:]}: {done.stdout}{done.stderr}\n{pods}")
        return done.stdout

    # --- pods ---

    def pods(self, labels: str) -> list[Any]:
        """Return the pods with these labels that are not about to end."""
        listed = self.core.list_namespaced_pod(self.namespace, label_selector=labels).items
        return [pod for pod in listed if pod.metadata.deletion_timestamp is None]

    def routers(self) -> list[Any]:
        return self.pods(_ROUTERS)

    def slot(self, colour: Colour) -> list[Any]:
        return self.pods(f"{_SLOTS},headrace/colour={colour.value}")

    def state_of_pods(self) -> list[str]:
        return [
            f"{pod.metadata.name}: {pod.status.phase}, ready {ready(pod)}, restarts {restarts(pod)}"
            for pod in self.core.list_namespaced_pod(self.namespace).items
        ]

    def all_ready(self, labels: str, count: int) -> bool:
        """Say whether so many pods are ready and no other is left."""
        listed = self.core.list_namespaced_pod(self.namespace, label_selector=labels).items
        return len(listed) == count and all(ready(pod) for pod in listed)

    def settled(self) -> bool:
        """Say whether all pods of slots and routers are ready, and none is still ending."""
        return self.all_ready(_ROUTERS, 2) and self.all_ready(_SLOTS, 6)

    def settle(self) -> None:
        eventually(self.settled, 120, "all pods ready and none ending")

    def delete_pod(self, name: str) -> None:
        """Delete a pod at once, as when its node is lost: nothing in it is asked to end."""
        self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)

    def kill_keeper(self, pod: str) -> None:
        said = self.kubectl("exec", pod, "-c", "keeper", "--", "python", "-c", _KILL_KEEPER)
        assert said.count("killed") == 1, said

    # --- releases ---

    @property
    def records(self) -> ConfigMapRecords:
        return ConfigMapRecords(api=the_api(os.environ), namespace=self.namespace, names=(MODEL,))

    @property
    def state(self) -> ModelState:
        store = ObjectStore(self.store_url)
        return open_state(self.state_dir, MODEL, store, records=self.records)

    @property
    def store_url(self) -> str:
        return f"file://{self.folder}/store"

    def stage(self, saved_model: Path) -> str:
        """Load a release into a free slot, as `stage_bundle` does, and return its id."""
        self._releases += 1
        release = f"release-{self._releases}"
        colour, number = self.state.reserve_slot(release)
        directory = slot_folder(self.state_dir, MODEL, colour)
        publish(saved_model, directory, number)
        for pod in self.slot(Colour(colour)):
            place = Slot(
                colour=colour,
                host=pod.status.pod_ip,
                grpc=GRPC_PORT,
                rest=REST_PORT,
                directory=directory,
            )
            version = VersionId(name=MODEL, version=number)
            wait_until_loaded(Staged(slot=place, version=version), LOAD_SECONDS)
        # A keeper that asked too early said so in the record, and takes it back after a while.
        eventually(lambda: not self.state.peek().unready, 60, "slots that answer the keepers")
        return release

    def variants(self, user: str) -> set[str]:
        """Return what each router does with a user, asked past the Service."""
        found = set()
        asked = {"inputs": {"history": [["item-1"]], "steps_ago": [[1]]}}
        for pod in self.routers():
            url = f"http://{pod.status.pod_ip}:{ROUTER_PORT}/v1/models/{MODEL}:predict"
            answer = httpx.post(
                url, json=asked, headers={"x-model": MODEL, "x-user-id": user}, timeout=10
            )
            found.add(answer.headers.get("x-headrace-variant", str(answer.status_code)))
        return found

    def user_inside(self) -> str:
        """Return a user whose bucket lies inside every share of the rollout in progress."""
        salt = str(self.state.peek().salt)
        return min(
            (f"user-{number}" for number in range(400)), key=lambda one: bucket_of(salt, one)
        )

    # --- the comparator ---

    @property
    def candidate(self) -> int:
        """Return the release number of the candidate in progress."""
        content = self.state.peek().candidate
        assert content is not None
        return content.release_number

    def shadow_report(self) -> dict[str, Any]:
        """Return what the comparator wrote of the rollout in progress; empty before its first word."""
        path = rollout_folder(self.state_dir, MODEL, f"r{self.candidate}") / SHADOW_REPORT
        return json.loads(path.read_text()) if path.exists() else {}

    def compared(self) -> int:
        return int(self.shadow_report().get("compared", 0))

    def routers_that_tell_of(self, candidate: int) -> list[str]:
        """Return the routers whose keepers export what was compared of a release."""
        line = f'headrace_shadow_compared_total{{model="{MODEL}",release="{candidate}"}}'
        urls = {
            pod.metadata.name: f"http://{pod.status.pod_ip}:{METRICS_PORT}/metrics"
            for pod in self.routers()
        }
        return [name for name, url in urls.items() if line in httpx.get(url, timeout=10).text]

    # --- users ---

    @property
    def service(self) -> tuple[str, int]:
        """Return address and port of the router's Service."""
        spec = self.core.read_namespaced_service("headrace-router", self.namespace).spec
        return spec.cluster_ip, spec.ports[0].port

    @contextmanager
    def users(self, rps: float, golden: Path) -> Iterator[Callable[[], list[Got]]]:
        """Let users ask; what is given returns what they got so far, and all once they ended."""
        path = self.folder / f"got-{time.monotonic_ns()}.jsonl"
        path.touch()
        host, port = self.service
        words = (host, str(port), MODEL, str(rps), str(golden), str(path))
        with (self.folder / "users.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.shop_users", *words],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        try:
            eventually(lambda: bool(read_got(path)), 60, "a first answer to the users")
            yield lambda: read_got(path)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            ended = process.wait(60)
        assert ended == 0, (self.folder / "users.log").read_text()[-2000:]


def eventually(met: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait; return how long it took."""
    began = time.monotonic()
    while not met():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)
    return time.monotonic() - began


def ready(pod: Any) -> bool:
    conditions = pod.status.conditions or []
    return any(one.type == "Ready" and one.status == "True" for one in conditions)


def restarts(pod: Any) -> int:
    return sum(one.restart_count for one in pod.status.container_statuses or [])


def image_of(name: str) -> dict[str, str]:
    """Return an image of this code as the chart's values name it."""
    repository, _, tag = image_name(name).rpartition(":")
    return {"repository": repository, "tag": tag}


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(under)
    for key, value in over.items():
        inner = both.get(key)
        both[key] = value if not isinstance(inner, Mapping) else _merged(inner, value)
    return both


def told(what: str, got: Sequence[Got]) -> str:
    """Return a line about what users got."""
    took = sorted((one.ended - one.due) * 1000 for one in got)
    bad = [one for one in got if not one.right]
    again = [one for one in got if one.again]
    line = (
        f"{what}: {len(got)} requests, {len(bad)} failed, {len(again)} asked again, "
        f"{len(got) / (got[-1].due - got[0].due):.0f} a second, p50 {took[len(took) // 2]:.1f} ms, "
        f"p99 {took[int(0.99 * len(took))]:.1f} ms, worst {took[-1]:.0f} ms"
    )
    print(line)
    return line + "".join(f"\n{json.dumps(vars(one))}" for one in [*bad, *again][:5])
