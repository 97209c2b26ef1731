"""The release DAG's pods on a live cluster; store, slots, router, MLflow and Airflow beside it.

Pods reach the store (moto's S3), MLflow and the slots at an address of this machine, and the state folder
as a volume of the node: both are what docs/runbooks/pods.md asks of a deployment.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import grpc
from botocore.exceptions import BotoCoreError
from headrace_airflow.compute_profiles import priority_class_objects
from headrace_airflow.pod_identity import MANAGED_BY, TASK_LABEL, TaskKey
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tasks.adapters.mlflow_mirror import answers
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.stages import Stage
from tasks.rollout.envoy import envoy_command, router_files, write_bootstrap
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, open_state
from tasks.serving import protos
from tasks.serving.client import predict_request
from tests.cluster.airflow_parts import ENDED, ROOT, Airflow, patiently
from tests.cluster.built_images import image_names, load_images
from tests.integration.kills.small_shop import AS_OF, write_shop
from tests.ports import free_port

NAMESPACE, MODEL, USERS = "headrace-release", "shop", 700  # 5 % of them are enough for a step
BUCKET, SECRET = "headrace", "headrace-store"
DAG = "/api/v2/dags/release_recommender"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
PATIENCE_SECONDS = 2400.0
_MANAGED = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
_OF_TASKS = f"{_MANAGED},{TASK_LABEL}"
_TEMPLATE = """
apiVersion: v1
kind: Pod
spec:
  volumes:
    - {{name: state, hostPath: {{path: "{folder}/state", type: Directory}}}}
    - {{name: work, hostPath: {{path: "{folder}/work", type: Directory}}}}
  containers:
    - name: base
      envFrom: [{{secretRef: {{name: {secret}}}}}]
      env:
        - {{name: HEADRACE_WORK, value: "{folder}/work"}}
        - {{name: HEADRACE_MLFLOW, value: "{mlflow}"}}
      volumeMounts:
        - {{name: state, mountPath: "{folder}/state"}}
        - {{name: work, mountPath: "{folder}/work"}}
"""


@dataclass(frozen=True, kw_only=True)
class Released:
    """What a run of the DAG came to."""

    state: str
    tasks: dict[str, str]
    tries: dict[str, int]
    addresses: dict[str, str]  # of what the tasks passed on
    seconds: dict[str, float]
    took: float
    pods: list[TaskKey]  # one entry a pod
    log: str


class ReleaseWorld:
    """Everything around the pods of one model."""

    model = MODEL
    namespace = NAMESPACE

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config.load_kube_config(os.environ["KUBECONFIG"])
        self.core = client.CoreV1Api()
        self.address = _address_for_pods(self.core)
        self.state_dir = folder / "state"
        self.store_url = f"s3://{BUCKET}/store"
        self.router_port, self.slot_ports = free_port(), [free_port() for _ in range(4)]
        self.s3 = {
            "AWS_ENDPOINT_URL": f"http://{self.address}:{free_port()}",
            "AWS_ACCESS_KEY_ID": "of-this-test-only",
            "AWS_SECRET_ACCESS_KEY": "of-this-test-only",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.mlflow = f"http://{self.address}:{free_port()}"
        self.airflow = self._airflow()
        self.servers: list[subprocess.Popen[bytes]] = []
        self.watch = PodWatch(self.core, self.namespace)

    def _airflow(self) -> Airflow:
        return Airflow(self.folder / "airflow", self._airflow_environment())

    def _airflow_environment(self) -> dict[str, str]:
        return {
            **self.s3,
            "NO_PROXY": f"127.0.0.1,localhost,{self.address}",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
            # Pods work on the cores of this machine too: what is slow for a while is not dead.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "60",
            "HEADRACE_RUNTIME": "kubernetes",
            "HEADRACE_STORE": self.store_url,
            "HEADRACE_STATE": str(self.state_dir),
            "HEADRACE_NAMESPACE": self.namespace,
            "HEADRACE_IMAGES": image_names(),
            "HEADRACE_POD_TEMPLATE": str(self.folder / "pod.yaml"),
            "HEADRACE_COMPUTE": str(self.folder / "compute.json"),
            "HEADRACE_POLL_SECONDS": "1",
            "HEADRACE_QUEUE_SECONDS": "1200",  # others may work on this cluster too
        }

    # --- up and down ---

    def start(self) -> None:
        self.folder.chmod(0o755)
        for place in ("state", "work", f"state/{MODEL}"):
            (self.folder / place).mkdir()
        template = _TEMPLATE.format(folder=self.folder, secret=SECRET, mlflow=self.mlflow)
        (self.folder / "pod.yaml").write_text(template)
        self._write_compute()
        self._prepare_cluster()
        self._start_store()
        self._start_serving()
        self._start_mlflow()
        self.watch.start()
        self.airflow.prepare()
        self.airflow.start()

    def stop(self) -> None:
        self.airflow.stop()
        self.watch.stop()
        for process in reversed(self.servers):
            process.terminate()
        for process in self.servers:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
        with suppress(ApiException):
            self.core.delete_collection_namespaced_pod(self.namespace, grace_period_seconds=0)

    def _write_compute(self) -> None:
        small = {stage.value: {"cpu_cores": 1, "memory_gib": 2} for stage in Stage}
        compute = {"format": "compute_profiles/1", "stages": small}
        (self.folder / "compute.json").write_text(json.dumps(compute))

    def _prepare_cluster(self) -> None:
        meta = client.V1ObjectMeta
        _unless_there(
            self.core.create_namespace, client.V1Namespace(metadata=meta(name=self.namespace))
        )
        for body in priority_class_objects():
            _unless_there(client.SchedulingV1Api().create_priority_class, body)
        self.core.delete_collection_namespaced_pod(self.namespace, grace_period_seconds=0)
        self._write_secret()
        load_images(self.core, self.folder)

    def _write_secret(self) -> None:
        with suppress(ApiException):
            self.core.delete_namespaced_secret(SECRET, self.namespace)
        data = {name: base64.b64encode(value.encode()).decode() for name, value in self.s3.items()}
        secret = client.V1Secret(metadata=client.V1ObjectMeta(name=SECRET), data=data)
        self.core.create_namespaced_secret(self.namespace, secret)

    def _start(self, name: str, *words: str, more: Mapping[str, str] | None = None) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                words,
                env={
                    **os.environ,
                    **self.s3,
                    "PYTHONPATH": str(ROOT),
                    "TF_CPP_MIN_LOG_LEVEL": "2",
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                    **(more or {}),
                },
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.servers.append(process)

    def _start_store(self) -> None:
        shop, port = self.folder / "shop", self.s3["AWS_ENDPOINT_URL"].rpartition(":")[2]
        write_shop(shop, USERS)
        moto = ROOT / "tests/integration/stores/moto_server.py"
        self._start("moto", sys.executable, str(moto), port, self.address)
        s3 = boto3.client(
            "s3",
            endpoint_url=self.s3["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.s3["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.s3["AWS_SECRET_ACCESS_KEY"],
            region_name=self.s3["AWS_DEFAULT_REGION"],
        )
        patiently(lambda: _answers(s3), 60, "moto")
        s3.create_bucket(Bucket=BUCKET)
        for file in ("events.parquet", "catalogue.parquet"):
            s3.upload_file(str(shop / file), BUCKET, f"shop/{file}")

    def _start_serving(self) -> None:
        """Start two slots where pods reach them, and the router with keeper and shoppers."""
        slots = {}
        for colour, number in ((Colour.BLUE, 0), (Colour.GREEN, 2)):
            grpc_port, rest_port = self.slot_ports[number : number + 2]
            folder = self.state_dir / MODEL / "slots" / colour.value
            folder.mkdir(parents=True)
            slots[colour.value] = {
                "host": self.address,
                "grpc": grpc_port,
                "rest": rest_port,
                "directory": str(folder),
            }
            self._start(
                colour.value,
                *(sys.executable, "-m", "tasks.cli", "serve", f"--bind_address={self.address}"),
                *(f"--port={grpc_port}", f"--rest_api_port={rest_port}"),
                *(f"--model_name={MODEL}", f"--model_base_path={folder}"),
                *("--max_num_load_retries=0", "--num_load_threads=1"),
            )
        record = {"format": "slots/1", "model": MODEL, "slots": slots}
        (self.state_dir / MODEL / "slots.json").write_text(json.dumps(record))
        files = router_files(self.state_dir)
        write_bootstrap(files, port=self.router_port, admin_port=free_port(), host="127.0.0.1")
        cli, where = (sys.executable, "-m", "tasks.cli"), ("--state-dir", str(self.state_dir))
        self._start("keeper", *cli, "keeper", *where)
        self._start("envoy", *envoy_command(files))
        self._start_shoppers()

    def _start_shoppers(self, more: Mapping[str, str] | None = None) -> None:
        """Let the users of a replay ask the router."""
        cli, where = (sys.executable, "-m", "tasks.cli"), ("--state-dir", str(self.state_dir))
        router = ("--router-url", f"http://{self.router}")
        self._start("shoppers", *cli, "shoppers", *where, *router, more=more)

    def _start_mlflow(self) -> None:
        host, _, port = self.mlflow.removeprefix("http://").partition(":")
        self._start(
            "mlflow",
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
            *("--artifacts-destination", str(self.folder / "mlflow")),
            *("--host", host, "--port", port),
        )
        patiently(lambda: answers(self.mlflow), 180, "MLflow")

    # --- releases ---

    def release(self, recipe: str) -> Released:
        """Run the DAG once, as a trigger by hand does."""
        return self.ended(self.begin(recipe))

    def begin(self, recipe: str) -> str:
        """Start a run of the DAG and return its id."""
        conf = {
            "dataset": "events",
            "model": self.model,
            "recipe": recipe,
            "as_of": AS_OF,
            "events_url": f"s3://{BUCKET}/shop/events.parquet",
            "catalogue_url": f"s3://{BUCKET}/shop/catalogue.parquet",
            "bake_seconds": 120,
        }
        patiently(lambda: self.airflow.call("GET", DAG), 180, "the DAG")
        run = self.airflow.call("POST", f"{DAG}/dagRuns", {"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def ended(self, run_id: str) -> Released:
        """Wait for the end of a run."""
        patiently(
            lambda: self._run_state(run_id) in ENDED, PATIENCE_SECONDS, f"the end of {run_id}"
        )
        return self.outcome(run_id)

    def _run_state(self, run_id: str) -> str:
        return str(self.airflow.call("GET", run_path(run_id))["state"])

    def task_states(self, run_id: str) -> dict[str, str]:
        """Return the state of each task of a run as it is now."""
        found = self.airflow.call("GET", f"{run_path(run_id)}/taskInstances?limit=100")
        return {one["task_id"]: str(one["state"]) for one in found["task_instances"]}

    def outcome(self, run_id: str) -> Released:
        """Return what a run that has ended came to."""
        path = run_path(run_id)
        run = self.airflow.call("GET", path)
        found = self.airflow.call("GET", f"{path}/taskInstances?limit=100")["task_instances"]
        tasks = {one["task_id"]: str(one["state"]) for one in found}
        return Released(
            state=str(run["state"]),
            tasks=tasks,
            tries={one["task_id"]: int(one["try_number"]) for one in found},
            addresses=self._addresses(path, [one for one in tasks if tasks[one] == "success"]),
            seconds={one["task_id"]: float(one["duration"] or 0) for one in found},
            took=float(run["duration"]),
            pods=[key for key in self.watch.seen() if key.run_id == run_id],
            log=self._log_of_failed(run_id, tasks),
        )

    def _addresses(self, path: str, task_ids: list[str]) -> dict[str, str]:
        found = {}
        for task_id in task_ids:
            entry = f"{path}/taskInstances/{task_id}/xcomEntries/return_value?deserialize=true"
            with suppress(urllib.error.HTTPError):
                found[task_id] = str(self.airflow.call("GET", entry)["value"])
        return found

    def _log_of_failed(self, run_id: str, tasks: Mapping[str, str]) -> str:
        logs = self.airflow.home / "logs"
        return "\n".join(
            one.read_text(errors="replace")[-3000:]
            for task_id, state in tasks.items()
            if state == "failed"
            for one in sorted(logs.rglob(f"run_id={run_id}/task_id={task_id}/*.log*"))
        )

    @property
    def state(self) -> ModelState:
        return open_state(self.state_dir, self.model, ObjectStore(self.store_url))

    @property
    def router(self) -> str:
        """Return host:port of the router."""
        return f"127.0.0.1:{self.router_port}"

    def served_version(self) -> int:
        """Ask the router for a user's items by gRPC; return the version that answered, 0 for none."""
        asked = predict_request(self.model, {"history": [["item-0-01"]], "steps_ago": [[1]]})
        options = [("grpc.default_authority", f"{self.model}.headrace")]
        with grpc.insecure_channel(self.router, options=options) as channel:
            call = channel.unary_unary(PREDICT)
            try:
                answer = call(asked, timeout=20, metadata=[("x-user-id", "user-0001")])
            except grpc.RpcError:  # the router has no route for the model yet
                return 0
        found = protos.predict.PredictResponse.FromString(answer)
        assert found.outputs["items"].string_val, found
        return int(found.model_spec.version.value)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the people of this deployment do."""
        return subprocess.run(
            [sys.executable, "-m", *words],
            env={
                **self.airflow.environment,
                "HEADRACE_HOME": str(self.folder),
                "HEADRACE_AIRFLOW": self.airflow.url,
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def pods(self) -> list[Any]:
        listed = self.core.list_namespaced_pod(self.namespace, label_selector=_MANAGED)
        return list(listed.items)


class PodWatch:
    """Whose pods there were: a list twice a second, for a pod lives longer."""

    def __init__(self, core: Any, namespace: str) -> None:
        self._core = core
        self._namespace = namespace
        self._seen: dict[str, TaskKey] = {}
        self.accounts: dict[str, set[str]] = {}  # service account: tasks whose pods had it
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def seen(self) -> list[TaskKey]:
        """Return a key for each uid."""
        return list(self._seen.values())

    def _look(self) -> None:
        while not self._end.wait(0.5):
            with suppress(ApiException, OSError):
                listed = self._core.list_namespaced_pod(self._namespace, label_selector=_OF_TASKS)
                for pod in listed.items:
                    key = TaskKey.of_pod({"metadata": {"annotations": pod.metadata.annotations}})
                    if key is not None:
                        self._seen[pod.metadata.uid] = key
                        account = str(pod.spec.service_account_name)
                        self.accounts.setdefault(account, set()).add(key.task_id)


@contextmanager
def release_world(folder: Path) -> Iterator[ReleaseWorld]:
    """Start everything; what is written here, pods of another user may change."""
    before = os.umask(0)
    world = ReleaseWorld(folder)
    kept = {name: os.environ.get(name) for name in world.s3}
    os.environ.update(world.s3)
    try:
        world.start()
        yield world
    finally:
        world.stop()
        os.umask(before)
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def run_path(run_id: str) -> str:
    return f"{DAG}/dagRuns/{urllib.parse.quote(run_id, safe='')}"


def _address_for_pods(core: Any) -> str:
    """Return the node's address: this machine's own, for the cluster is one node on it."""
    (node,) = core.list_node().items
    return next(one.address for one in node.status.addresses if one.type == "InternalIP")


def _answers(s3: Any) -> bool:
    try:
        s3.list_buckets()
    except BotoCoreError:
        return False
    return True


def _unless_there(make: Any, body: Any) -> None:
    try:
        make(body)
    except ApiException as error:
        if error.status != 409:
            raise
