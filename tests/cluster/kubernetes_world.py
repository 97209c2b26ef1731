"""The live cluster of the matrix: its pods, its journal, the proxy before its API, and Airflow."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_airflow.compute_profiles import ProfileName, priority_class_objects
from headrace_airflow.pod_identity import MANAGED_BY
from headrace_airflow.sealed_store import SealedStore
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tasks.contracts.artifacts import Address
from tests.cluster import image
from tests.cluster.airflow_parts import Airflow, TaskRun, patiently
from tests.cluster.cells import CELLS, RIVALS, Cell, cells_json
from tests.cluster.faults_of_cells import REAPER_GRACE_SECONDS
from tests.cluster.faulty_proxy import FaultyProxy
from tests.cluster.gpu_pool import COMPUTE, GpuPool, real_node
from tests.cluster.group_cells import GROUP_CELLS
from tests.fake_kubernetes import kubeconfig

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = os.environ.get("HEADRACE_MATRIX_NAMESPACE", "headrace-matrix")  # emptied at the start
PATIENCE_SECONDS = 240.0
START_SECONDS = 15.0
AT_ONCE = 5
_MANAGED = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
_TEMPLATE = """
apiVersion: v1
kind: Pod
spec:
  terminationGracePeriodSeconds: 2
  volumes: [{{name: matrix, hostPath: {{path: "{folder}"}}}}]
  containers:
    - name: base
      env:
        - {{name: MATRIX_JOURNAL, value: "{folder}/journal"}}
        - {{name: PYTHONPATH, value: "/app:{folder}/code"}}
      volumeMounts: [{{name: matrix, mountPath: "{folder}"}}]
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a cell came to."""

    state: str
    try_number: int
    starts: int
    seals: int
    steps: list[int]
    pods_left: list[str]
    sealed: bool
    address: str | None
    overlapping: bool
    log: str
    seconds: float
    missed: list[str]  # faults that never came about: such a cell shows nothing


class World:
    """Everything the cells may touch."""

    start_seconds = START_SECONDS

    def __init__(self, folder: Path, dags: str = "dags") -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.strangers: dict[str, str] = {}
        self.cluster_config = os.environ["KUBECONFIG"]
        self.proxy = FaultyProxy(Path(self.cluster_config))
        config.load_kube_config(self.cluster_config)
        self.core = client.CoreV1Api()
        self.gpu = GpuPool(self.core, NAMESPACE)
        self.airflow = Airflow(folder / "airflow", self._environment(), dags)

    def _environment(self) -> dict[str, str]:
        (self.folder / "pod.yaml").write_text(_TEMPLATE.format(folder=self.folder))
        (self.folder / "cells.json").write_text(cells_json(CELLS + RIVALS + GROUP_CELLS))
        (self.folder / "compute.json").write_text(json.dumps(COMPUTE))
        through_proxy = kubeconfig(self.folder / "kubeconfig", self.proxy.url)
        return {
            "KUBECONFIG": str(through_proxy),
            "MATRIX_CELLS": str(self.folder / "cells.json"),
            "HEADRACE_RUNTIME": "kubernetes",
            "HEADRACE_STORE": f"file://{self.folder}/store",
            "HEADRACE_STATE": f"{self.folder}/state",
            "HEADRACE_NAMESPACE": NAMESPACE,
            "HEADRACE_IMAGES": os.environ.get("HEADRACE_MATRIX_IMAGE", image.IMAGE),
            "HEADRACE_POD_TEMPLATE": str(self.folder / "pod.yaml"),
            "HEADRACE_COMPUTE": str(self.folder / "compute.json"),
            "HEADRACE_QUEUE_SECONDS": "120",
            "HEADRACE_START_SECONDS": str(START_SECONDS),
            "HEADRACE_GROUP_SECONDS": "12",
            "HEADRACE_POLL_SECONDS": "1",
            "HEADRACE_DISRUPTIONS": "3",
        }

    def start(self) -> None:
        for name in ("journal", "store", "state"):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(0o777)  # the pods' user is not ours
        (self.folder / "code").mkdir()
        shutil.copy2(Path(__file__).with_name("two_rank_stage.py"), self.folder / "code")
        self.folder.chmod(0o755)
        self._prepare_cluster()
        self.gpu.open()
        self.proxy.start()
        self.airflow.prepare()
        self.airflow.start()

    def stop(self) -> None:
        self.airflow.stop()
        self.proxy.stop()
        with suppress(ApiException):
            self.gpu.close()
        with suppress(ApiException):
            self.core.delete_collection_namespaced_pod(NAMESPACE, grace_period_seconds=0)

    def _prepare_cluster(self) -> None:
        prepare_namespace(self.core, NAMESPACE)
        self.label_node({label: None for cell in CELLS for label in cell.node_selector})
        self.core.delete_collection_namespaced_pod(NAMESPACE, grace_period_seconds=0)
        if "HEADRACE_MATRIX_IMAGE" not in os.environ:
            load_image()

    # --- the cluster ---

    def pods(self, cell: str) -> list[Any]:
        listed = self.core.list_namespaced_pod(NAMESPACE, label_selector=_MANAGED).items
        slug = cell.replace("_", "-")
        return [pod for pod in listed if pod.metadata.name.startswith(f"{slug}-")]

    def uids(self, cell: str) -> set[str]:
        return {pod.metadata.uid for pod in self.pods(cell)}

    def remove_pod(self, name: str) -> None:
        """Remove a pod at once, as a node that is lost for good does."""
        self.core.delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=0)
        deadline = time.monotonic() + 20
        while self.read_raw(name)[0] == 200 and time.monotonic() < deadline:
            time.sleep(0.05)

    def read_raw(self, name: str) -> tuple[int, bytes]:
        try:
            answer = self.core.read_namespaced_pod(name, NAMESPACE, _preload_content=False)
        except ApiException as error:
            body = error.body
            return int(error.status), body.encode() if isinstance(body, str) else bytes(body)
        return int(answer.status), bytes(answer.data)

    def create_stranger(self, name: str) -> str:
        pod = {
            "metadata": {"name": name},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "base",
                        "image": "localhost/k8skit/busybox:1",
                        "command": ["sleep", "600"],
                        "resources": {"requests": {"cpu": "10m"}},
                    }
                ],
            },
        }
        return str(self.core.create_namespaced_pod(NAMESPACE, pod).metadata.uid)

    def evict(self, name: str) -> None:
        body = {
            "apiVersion": "policy/v1beta1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": NAMESPACE},
        }
        self.core.create_namespaced_pod_eviction(name, NAMESPACE, body, _preload_content=False)

    def label_node(self, labels: Mapping[str, str | None]) -> None:
        self.core.patch_node(real_node(self.core), {"metadata": {"labels": dict(labels)}})

    def reap(self) -> str:
        """Run the reaper's command once; it must be able to judge every pod."""
        command = [sys.executable, "-m", "headrace_airflow.reaper"]
        command += ["--grace-seconds", str(REAPER_GRACE_SECONDS)]
        done = subprocess.run(
            command,
            env=self.airflow.environment | {"HEADRACE_AIRFLOW": self.airflow.url},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kubernetes_version(self) -> str:
        return str(client.VersionApi().get_code().git_version)

    # --- the journal ---

    def events(self, cell: str) -> list[dict[str, Any]]:
        path = self.journal / f"{cell}.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line]

    def await_event(self, cell: str, event: str, count: int = 1) -> None:
        patiently(
            lambda: sum(one["event"] == event for one in self.events(cell)) >= count,
            PATIENCE_SECONDS,
            f"event {event} of {cell}",
        )

    # --- a cell ---

    def run(self, name: str) -> TaskRun:
        """Start a run of the DAG of a cell."""
        return TaskRun(self.airflow, name)

    @contextmanager
    def turn(self, cell: Cell) -> Iterator[None]:
        """Let the cells that want the one GPU pass one by one."""
        if cell.profile is ProfileName.CPU:
            yield
            return
        with self.gpu.turn:
            try:
                yield
            finally:
                self.gpu.free()

    def play(self, cell: Cell) -> Result:
        """Run a cell to its end and say what it came to."""
        with self.turn(cell):
            return self._play(cell)

    def _play(self, cell: Cell) -> Result:
        started = time.monotonic()
        cell.prepare(self, cell)
        run = self.run(cell.name)
        cell.drive(self, cell, run)
        task = run.wait(PATIENCE_SECONDS)
        with suppress(AssertionError):
            patiently(lambda: not self.pods(cell.name), 100, "the end of its pods")
        events = self.events(cell.name)
        address = run.address()
        return Result(
            state=str(task["state"]),
            try_number=int(task["try_number"]),
            starts=sum(one["event"] == "start" for one in events),
            seals=sum(one["event"] == "sealed" for one in events),
            steps=[one["step"] for one in events if one["event"] == "step"],
            pods_left=[pod.metadata.name for pod in self.pods(cell.name)],
            sealed=self._is_sealed(address),
            address=address,
            overlapping=overlap(events),
            log=run.log(),
            seconds=time.monotonic() - started,
            missed=self.proxy.missed(cell.name),
        )

    def _is_sealed(self, address: str | None) -> bool:
        if address is None:
            return False
        store = SealedStore(url=f"file://{self.folder}/store")
        return str(store.manifest(Address.parse(address)).address) == address


def overlap(events: list[dict[str, Any]]) -> bool:
    """Say whether two pods worked at once: a pod that spoke again after another had begun."""
    order = [one["pod"] for one in sorted(events, key=lambda one: one["at"])]
    runs = [pod for n, pod in enumerate(order) if n == 0 or order[n - 1] != pod]
    return len(runs) != len(set(runs))


class Matrix:
    """Plays the chosen cells, some at once; each result is waited for by its own test."""

    def __init__(self, world: World, cells: list[Cell]) -> None:
        self.world = world
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._lock = threading.Lock()
        self._results: dict[Cell, Future[Result]] = {
            cell: self._pool.submit(world.play, cell) for cell in cells
        }

    def __contains__(self, cell: Cell) -> bool:
        return cell in self._results

    def also(self, cell: Cell) -> None:
        """Play one more."""
        self._results[cell] = self._pool.submit(self.world.play, cell)

    def result(self, cell: Cell) -> Result:
        return self._results[cell].result()

    def results(self) -> dict[Cell, Result]:
        """Return what has ended without an error."""
        ended = {cell: one for cell, one in self._results.items() if one.done()}
        return {cell: one.result() for cell, one in ended.items() if one.exception() is None}

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def prepare_namespace(core: client.CoreV1Api, name: str) -> None:
    """Make the namespace and the priority classes of the compute profiles."""
    namespace = client.V1Namespace(metadata=client.V1ObjectMeta(name=name))
    _unless_there(lambda: core.create_namespace(namespace))
    for one in priority_class_objects():
        _unless_there(
            lambda body=one: client.SchedulingV1Api().create_priority_class(body)  # type: ignore[misc]
        )
    account = lambda: core.read_namespaced_service_account("default", name)  # noqa: E731
    patiently(lambda: _there(account), 30, "the namespace's service account")


def the_kit() -> Path | None:
    """Return the folder that makes and loads images, beside or in the checkout."""
    named = os.environ.get("HEADRACE_K8S_KIT")
    places = [Path(named)] if named else [ROOT / "shared/k8s", ROOT.parent / "shared/k8s"]
    return next((one for one in places if (one / "mkimage").exists()), None)


def load_image() -> None:
    """Make the matrix's image and load it into the cluster."""
    kit = the_kit()
    if kit is None:
        raise AssertionError(
            "set HEADRACE_K8S_KIT or HEADRACE_MATRIX_IMAGE: see docs/fault-matrix.md"
        )
    name = re.sub(r"\{image\}", "rollout", image.IMAGE)
    folder = Path(tempfile.mkdtemp(prefix="headrace-image-"))
    try:
        load_archive(image.build(folder, kit, name))
    finally:
        shutil.rmtree(folder)


def load_archive(archive: Path) -> None:
    """Load an image archive into the cluster."""
    kit = the_kit()
    assert kit is not None
    subprocess.run([str(kit / "load-image"), str(archive)], check=True, capture_output=True)


def _unless_there(make: Callable[[], Any]) -> None:
    try:
        make()
    except ApiException as error:
        if error.status != 409:
            raise


def _there(read: Callable[[], Any]) -> bool:
    try:
        read()
    except ApiException:
        return False
    return True
