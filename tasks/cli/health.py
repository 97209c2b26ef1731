"""What is wrong with a running stack, worst first: one sentence a problem, each with a next step."""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.cli.ledgers import opened, records_of
from tasks.cli.parts import Status, answers
from tasks.cli.ports import LOOPBACK, listener_on
from tasks.cli.processes import Identity, is_suspended
from tasks.cli.slots import SLOTS_FILE
from tasks.cli.stack import airflow_of
from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.requests import parse_utc
from tasks.rollout.phases import Phase
from tasks.rollout.record import StateRecord
from tasks.rollout.routes import parse_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tasks.cli.home import Home
    from tasks.cli.stack import PartReport, StackReport

PROBE_SECONDS = 1.0
AIRFLOW_SECONDS = 3.0
FULL_PERCENT = 97
LEAST_FREE_BYTES = 1 << 30
STALE_SECONDS = 30.0  # Airflow's own limit of a heartbeat's age
WORDS: Mapping[str, str] = {
    "envoy": "router",
    "airflow-api-server": "Airflow API",
    "airflow-scheduler": "Airflow scheduler",
    "airflow-triggerer": "Airflow triggerer",
    "airflow-dag-processor": "Airflow DAG processor",
    "mlflow": "MLflow",
}
PORTS_OF: Mapping[str, Sequence[str]] = {
    "envoy": ("router", "router-admin"),
    "shadow": ("shadow", "shadow-grpc"),
    "keeper": ("metrics",),
    "airflow-api-server": ("airflow",),
    "mlflow": ("mlflow",),
}


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model's state and where its slots listen; `wrong` says why either could not be read."""

    name: str
    record: StateRecord | None = None
    ports: Mapping[str, Mapping[str, int]]
    wrong: str | None = None


def read_models(home: Home) -> list[ServedModel]:
    """Return every model that has a state record, readable or not."""
    return [_read_model(home, name) for name in records_of(home).models()]


def _read_model(home: Home, name: str) -> ServedModel:
    file = home.state / name / SLOTS_FILE
    try:
        record = opened(home, name).peek()
        slots = parse_slots(file.read_bytes(), str(file)) if file.exists() else {}
    except (HeadraceError, OSError) as error:
        return ServedModel(name=name, ports={}, wrong=f"{name}: {error}")
    ports = {colour.value: {"grpc": s.grpc, "rest": s.rest} for colour, s in slots.items()}
    return ServedModel(name=name, record=record, ports=ports)


def problems_of(home: Home, report: StackReport) -> list[str]:
    """Ask everything at once; return what is wrong, worst first."""
    models = read_models(home)
    asks: list[Callable[[], list[str]]] = [
        partial(_processes, report, models),
        partial(room, home),
        partial(_router, report, models),
        *(partial(_slots, model) for model in models),
        partial(records, models),
        partial(_airflow, home, report),
        partial(_mlflow, report),
    ]
    silent = {part.name for part in (*report.unwell, *report.not_up_yet)}
    with ThreadPoolExecutor(len(asks)) as pool:
        found = [problem for said in pool.map(lambda ask: ask(), asks) for problem in said]
    return [line for line in dict.fromkeys(found) if not _is_only_silent(line, silent)]


def _is_only_silent(line: str, silent: set[str]) -> bool:
    """Return whether a line says no more than that one of these parts does not answer."""
    return any(line.startswith(f"{words_for(name)}: no answer") for name in silent)


def words_for(part: str) -> str:
    """Return what people call a part: `shop-blue` is the slot blue of shop."""
    if part in WORDS:
        return WORDS[part]
    model, _, colour = part.rpartition("-")
    return f"slot {colour} of {model}" if colour in {"blue", "green", "violet"} else part


# Processes


def _processes(report: StackReport, models: Sequence[ServedModel]) -> list[str]:
    suspended = _suspended("supervisor", report.supervisor)
    found = [suspended] if suspended else []
    for part in report.parts:
        found += filter(None, [_part(part, report, models)])
    return found


def _part(part: PartReport, report: StackReport, models: Sequence[ServedModel]) -> str | None:
    name = words_for(part.name)
    if part.status is Status.BACKING_OFF:
        for port in _ports_of(part.name, report, models):
            stranger = listener_on(port)
            if stranger is not None:
                return (
                    f"{name}: not running; its port {port} is taken by {stranger}: end that, or "
                    "`headrace down` and `headrace up` for another port"
                )
        times = f"started again {part.restarts} times"
        return f"{name}: not running, {part.note}; {times}; see {part.log}"
    if part.status is Status.READY and part.process is not None and not part.process.alive:
        return f"{name}: process {part.process.pid} has ended and is not started again yet"
    return _suspended(name, part.process)


def _suspended(name: str, process: Identity | None) -> str | None:
    if process is None or not is_suspended(process.pid):
        return None
    return f"{name}: process {process.pid} is suspended; kill -CONT {process.pid} lets it go on"


def _ports_of(part: str, report: StackReport, models: Sequence[ServedModel]) -> list[int]:
    named = [report.ports[name] for name in PORTS_OF.get(part, ()) if name in report.ports]
    slots = [
        port
        for model in models
        for colour, ports in model.ports.items()
        if part == f"{model.name}-{colour}"
        for port in ports.values()
    ]
    return named + slots


# Room


def room(home: Home) -> list[str]:
    """Return what is wrong with the disks of home and store."""
    folders = [home.root]
    if home.store_url.startswith("file://"):
        folders.append(Path(home.store_url.removeprefix("file://")))
    return list(dict.fromkeys(line for folder in folders for line in _disk(folder)))


def _disk(folder: Path) -> Iterator[str]:
    if not folder.exists():
        return
    usage = shutil.disk_usage(folder)
    percent = 100 * usage.used / max(1, usage.used + usage.free)
    if usage.free < LEAST_FREE_BYTES or percent >= FULL_PERCENT:
        free = usage.free / 1e9
        yield (
            f"disk {percent:.0f} % full ({free:.1f} GB left) at {folder}: free some space, "
            "`headrace gc` removes what no release reaches"
        )
    if not os.access(folder, os.W_OK):
        yield f"{folder}: cannot be written (read-only file system, or not yours)"


# Router and slots


def _router(report: StackReport, models: Sequence[ServedModel]) -> list[str]:
    address = report.addresses["router"]
    found = []
    for model in models:
        if model.record is None or model.record.stable is None:
            continue
        state = served(f"{address}/v1/models/{model.name}", model.name)
        wanted = model.record.stable.release_number
        if state.code is None:
            return [f"router: no answer at {address}; see `logs/envoy.log`"]
        if state.code != _OK:
            found.append(f"router: answers {state.code} for {model.name}")
        elif wanted not in state.available:
            found.append(
                f"router: expected release {wanted} of {model.name}, which the ledger says is "
                f"stable, found {state.words}; is the keeper running?"
            )
    return found


def _slots(model: ServedModel) -> list[str]:
    record, found = model.record, []
    if record is None:
        return []
    roles = {"stable": record.roles.stable, "previous": record.roles.previous}
    if record.status.phase in {Phase.STEPPING, Phase.PAUSED, Phase.HALTED}:
        roles["candidate"] = record.roles.candidate  # before that it may still be loading
    for role, colour in roles.items():
        if colour is None or colour.value not in model.ports:
            continue
        name = f"slot {colour.value} of {model.name}"
        port = model.ports[colour.value]["rest"]
        state = served(f"http://{LOOPBACK}:{port}/v1/models/{model.name}", model.name)
        wanted = record.slots[colour].release_number
        if state.code is None:
            found.append(f"{name}: no answer on port {port} ({role}, release {wanted})")
        elif state.code != _OK:
            found.append(f"{name}: answers {state.code} ({role}, release {wanted})")
        elif wanted not in state.available:
            found.append(f"{name}: expected release {wanted} ({role}), found {state.words}")
    return found


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a server said about a model; `code` is None where nobody answered."""

    code: int | None = None
    available: frozenset[int] = frozenset()

    @property
    def words(self) -> str:
        """Return the available versions, in words."""
        return ", ".join(map(str, sorted(self.available))) or "none available"


_OK = 200


def served(url: str, model: str) -> Served:
    """Ask a slot or the router which versions of a model it serves."""
    request = urllib.request.Request(url, headers={"x-model": model})  # noqa: S310  our own stack
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PROBE_SECONDS) as answer:
            rows: Any = json.loads(answer.read()).get("model_version_status", [])
            available = {int(row["version"]) for row in rows if row.get("state") == "AVAILABLE"}
            return Served(code=answer.status, available=frozenset(available))
    except urllib.error.HTTPError as error:
        return Served(code=error.code)
    except OSError:
        return Served()
    except (ValueError, KeyError, AttributeError, TypeError):
        return Served(code=_OK)


# Records, Airflow, MLflow


def records(models: Sequence[ServedModel]) -> list[str]:
    """Return records that cannot be read, and rollouts that wait for a person."""
    found = []
    for model in models:
        if model.wrong is not None:
            found.append(model.wrong)
        elif model.record is not None and model.record.status.phase in {Phase.PAUSED, Phase.HALTED}:
            status, rollback = model.record.status, f"`headrace rollback --model {model.name}"
            means = status.phase.meaning
            resume = f"`headrace resume --model {model.name} --reason WHY`, or "
            if status.phase is Phase.HALTED:
                resume = (
                    "bring stable's slot back (its log says why it went), or replace its release by "
                    f"`headrace hotfix --model {model.name} --bundle serving_bundle/KEY --reason "
                    "WHY`; then "
                )
            advice = f"{_waits_for(model.record)}{resume}{rollback} --reason WHY`"
            if status.refused:
                means = f"step {status.step} was cut or judged unfavourably, and nothing resumes it"
                advice = f"`headrace history` says why; {rollback} --reason WHY`"
            found.append(
                f"{model.name}: release {model.record.release_id} is {status.phase}: {means}; {advice}"
            )
    return found


def unready(models: Sequence[ServedModel]) -> list[str]:
    """Return the slots that did not answer the keeper, as it last wrote into the records."""
    return [
        f"{model.name}: slot {colour.value} (release {record.slots[colour].release_number}) does not "
        "answer the keeper; its log says why"
        for model in models
        if (record := model.record) is not None
        for colour in record.unready
        if colour in record.slots
    ]


def _waits_for(record: StateRecord) -> str:
    """Return by whom a rollout was paused, where the record still says so."""
    last = record.entries[-1] if record.entries else None
    if last is None or last.kind not in {"paused", "halted"}:
        return ""
    return f"{last.kind} by {last.who} at {last.at}: {last.why}; "


def _airflow(home: Home, report: StackReport) -> list[str]:
    try:
        airflow = airflow_of(home, report, timeout_seconds=AIRFLOW_SECONDS)
    except (BadRequestError, OSError) as error:
        return [f"Airflow API: cannot be asked: {error}"]
    try:
        found = heartbeats(airflow.health(), datetime.now(tz=UTC))
        return found or [f"a DAG cannot be read: {line}" for line in airflow.import_errors()[:1]]
    except HeadraceError as error:
        return [f"Airflow API: no answer at {report.addresses['airflow']}: {error}"]


def heartbeats(health: Mapping[str, Any], now: datetime) -> list[str]:
    """Return which components of Airflow are not well, by what its health page says."""
    found = []
    if (health.get("metadatabase") or {}).get("status") != "healthy":
        found.append("Airflow database: cannot be reached; see logs/airflow-api-server.log")
    for name in ("scheduler", "triggerer", "dag_processor"):
        said = health.get(name) or {}
        words = WORDS[f"airflow-{name.replace('_', '-')}"]
        last = said.get(f"latest_{name}_heartbeat")
        if last is None:
            found.append(
                f"{words}: no heartbeat yet; see logs/airflow-{name.replace('_', '-')}.log"
            )
            continue
        age = (now - parse_utc(str(last))).total_seconds()
        if age > STALE_SECONDS or said.get("status") != "healthy":
            log = f"logs/airflow-{name.replace('_', '-')}.log"
            found.append(f"{words}: no heartbeat for {age:.0f} s; see {log}")
    return found


def _mlflow(report: StackReport) -> list[str]:
    address = report.addresses["mlflow"]
    if answers(f"{address}/health"):
        return []
    return [f"MLflow: no answer at {address}; releases go on, their mirror waits"]
