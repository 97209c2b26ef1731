"""What the local stack runs: Airflow's parts, MLflow, Envoy, keeper, shoppers and model slots."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.cli.home import CHECKOUT, Home, Secrets
from tasks.cli.parts import Part
from tasks.cli.ports import LOOPBACK
from tasks.cli.slots import SlotBoard, slot_part
from tasks.contracts.log_lines import FILE_VARIABLE, FORMAT_VARIABLE, Form
from tasks.rollout.envoy import envoy_command, router_files
from tasks.warm_start import LONGEST_PATH

AIRFLOW_API = "airflow-api-server"
AIRFLOW_USER = "admin"
AIRFLOW_SCHEDULER = "airflow-scheduler"
KEEPER = "keeper"
MIGRATE = "airflow-migrate"
WARM_PACKAGES = ("great_expectations", "great_expectations.expectations")
PARALLEL_TASKS = 4  # two models side by side, a renewer of the lease each; bakes hold none
# Others are never handed to the stack: another Airflow's settings, a proxy between its own parts.
STRANGERS = ("AIRFLOW__", "AIRFLOW_", "MLFLOW_", "OTEL_")
PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "ftp_proxy"})


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One start of the local stack: where, on which ports, with which secrets and mark."""

    home: Home
    ports: Mapping[str, int]
    secrets: Secrets

    def url(self, name: str) -> str:
        """Return the address of a part with a port."""
        return f"http://{LOOPBACK}:{self.ports[name]}"

    @property
    def addresses(self) -> dict[str, str]:
        """Return the addresses that people open."""
        return {name: self.url(name) for name in ("airflow", "mlflow", "router")}


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what belongs to other Airflows, and without proxies."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(STRANGERS) and name.lower() not in PROXIES
    }


def headrace_environment(stack: Stack) -> dict[str, str]:
    """Return what every part and every stage is told."""
    path = f"{CHECKOUT}:{CHECKOUT / 'plugins'}"
    return {
        "HEADRACE_HOME": str(stack.home.root),
        "HEADRACE_RUNTIME": "local",
        "HEADRACE_STORE": stack.home.store_url,
        "HEADRACE_STATE": str(stack.home.state),
        "HEADRACE_MLFLOW": stack.url("mlflow"),
        "HEADRACE_ROUTER": stack.url("router"),
        "HEADRACE_PYTHON": sys.executable,
        "HEADRACE_WARM_GATES": str(stack.home.warm_gates),
        # Plain lines go to the part's own log, where people and `headrace release` read them.
        FORMAT_VARIABLE: Form.PLAIN.value,
        FILE_VARIABLE: str(stack.home.log_file),
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "GX_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "SCARF_ANALYTICS": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def airflow_environment(stack: Stack) -> dict[str, str]:
    """Return Airflow's whole configuration; it reads no airflow.cfg of ours."""
    port = stack.ports["airflow"]
    airflow = stack.home.airflow
    settings: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": CHECKOUT / "dags",
            "plugins_folder": CHECKOUT / "plugins",
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": PARALLEL_TASKS,
            "dags_are_paused_at_creation": False,
            "fernet_key": "",
            "execution_api_server_url": f"http://{LOOPBACK}:{port}/execution/",
            "simple_auth_manager_users": f"{AIRFLOW_USER}:admin",
            "simple_auth_manager_passwords_file": passwords_file(stack.home),
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{airflow}/airflow.db"},
        "api": {
            "host": LOOPBACK,
            "port": port,
            "base_url": stack.url("airflow"),
            "workers": 1,
            "secret_key": stack.secrets.api_secret_key,
        },
        "api_auth": {"jwt_secret": stack.secrets.jwt_secret * 2},
        "scheduler": {
            "scheduler_idle_sleep_time": 0.1,
            # What a killed scheduler was running is seen this soon; the usual 300 s is for fleets.
            "orphaned_tasks_check_interval": 20,
        },
        "workers": {"min_heartbeat_interval": 1},  # a skipped or failed task is seen this soon
        "dag_processor": {
            "parsing_processes": 1,
            "refresh_interval": 600,
            "min_file_process_interval": 600,
            "print_stats_interval": 600,
        },
        "usage_data_collection": {"enabled": False},
    }
    return {
        "AIRFLOW_HOME": str(airflow),
        "UVICORN_LOGGING_LEVEL": "WARNING",
    } | {
        f"AIRFLOW__{section.upper()}__{name.upper()}": str(value)
        for section, values in settings.items()
        for name, value in values.items()
    }


def passwords_file(home: Home) -> Path:
    """Return where Airflow's simple auth manager reads passwords."""
    return home.root / "airflow-passwords.json"


def airflow_parts(stack: Stack, data_folder: str | None) -> list[Part]:
    """Return Airflow standalone as its parts: each restarts alone; the scheduler runs stages."""
    for_stages = {"HEADRACE_DATA": data_folder} if data_folder else {}
    environment = headrace_environment(stack) | airflow_environment(stack)
    program = str(Path(sys.executable).with_name("airflow"))
    version = importlib.metadata.version("apache-airflow-core")

    def part(name: str, *arguments: str, rank: int, ready_url: str | None = None) -> Part:
        return Part(
            name=name,
            command=(program, *arguments),
            environment=environment | (for_stages if name == AIRFLOW_SCHEDULER else {}),
            after=(MIGRATE,),
            ready_url=ready_url,
            stop_rank=rank,
        )

    migrate = Part(
        name=MIGRATE,
        command=(program, "db", "migrate"),
        environment=environment,
        stamp=stack.home.airflow / "migrated",
        stamp_text=version,
    )
    # Logs are read from this machine's files: the log servers would listen on every address.
    return [
        migrate,
        part(AIRFLOW_API, "api-server", rank=0, ready_url=f"{stack.url('airflow')}/api/v2/version"),
        part(AIRFLOW_SCHEDULER, "scheduler", "--skip-serve-logs", rank=0),
        part("airflow-dag-processor", "dag-processor", rank=0),
        part("airflow-triggerer", "triggerer", "--skip-serve-logs", rank=0),
    ]


def parts_of(stack: Stack, board: SlotBoard, data_folder: str | None) -> list[Part]:
    """Return every part that should run now; models that appear add their slots."""
    environment = headrace_environment(stack)
    slots = [slot_part(slot, environment) for slot in board.slots()]
    return [
        *airflow_parts(stack, data_folder),
        *router_parts(stack, [slot.name for slot in slots]),
        *slots,
        *warm_parts(stack),
        mlflow_part(stack),
    ]


def warm_parts(stack: Stack) -> list[Part]:
    """Return the warm interpreter that gates are forked from; none where its path is too long."""
    warm = stack.home.warm_gates
    if len(os.fsencode(warm)) > LONGEST_PATH:
        return []
    part = Part(
        name="warm-gates",
        command=(sys.executable, "-m", "tasks.warm_start", "serve", str(warm), *WARM_PACKAGES),
        environment=headrace_environment(stack),
        after=(AIRFLOW_API,),  # until then both cores are wanted elsewhere
        ready_file=warm,
        stop_rank=3,
    )
    return [part]


def router_parts(stack: Stack, slots: Sequence[str] = ()) -> list[Part]:
    """Return keeper, Envoy once routes are written, who asks loaded slots, and who compares them."""
    environment = headrace_environment(stack)
    files = router_files(stack.home.state)
    program = (sys.executable, "-m", "tasks.cli")
    state = ("--state-dir", str(stack.home.state))
    keeper = Part(
        name=KEEPER,
        command=(*program, "keeper", *state, "--metrics-port", str(stack.ports["metrics"])),
        environment=environment,
        ready_file=files.routes,
        stop_rank=1,
    )
    envoy = Part(
        name="envoy",
        command=tuple(envoy_command(files)),
        environment=environment,
        after=(KEEPER,),
        ready_port=stack.ports["router"],
        stop_rank=2,
    )
    shoppers = Part(
        name="shoppers",
        command=(*program, "shoppers", *state, "--router-url", stack.url("router")),
        environment=environment,
        after=(envoy.name, *slots),
        stop_rank=0,
    )
    ports = ("--port", str(stack.ports["shadow"]), "--grpc-port", str(stack.ports["shadow-grpc"]))
    shadow = Part(
        name="shadow",
        command=(*program, "shadow", *state, *ports),
        environment=environment,
        after=(envoy.name,),
        ready_port=stack.ports["shadow-grpc"],
        stop_rank=0,
    )
    return [keeper, envoy, shoppers, shadow]


def mlflow_part(stack: Stack) -> Part:
    """Return MLflow's server on SQLite, started when Airflow no longer needs both cores."""
    folder = stack.home.mlflow
    server = {
        "--backend-store-uri": f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination": str(folder / "artifacts"),
        "--host": LOOPBACK,
        "--port": str(stack.ports["mlflow"]),
        "--workers": "1",
    }
    arguments = [text for pair in server.items() for text in pair]
    return Part(
        name="mlflow",
        command=(sys.executable, "-m", "mlflow", "server", *arguments),
        environment=headrace_environment(stack) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        after=(AIRFLOW_API,),
        ready_url=f"{stack.url('mlflow')}/health",
        stop_rank=4,
    )
