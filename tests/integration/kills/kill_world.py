"""A small release with real servers, and each of its stages as a subject to be killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.bake import used_up_path
from tasks.contracts.stages import STAGE_FACTS, Stage
from tasks.rollout.envoy import envoy_command, router_files, write_bootstrap
from tasks.rollout.record import Colour
from tasks.rollout.state import open_state
from tests.integration.kills.build_release import MODEL, RELEASE, STORE, keep_what_is_found
from tests.integration.kills.driver import Command, Ended, Lost, Subject, digests
from tests.integration.kills.small_shop import write_shop
from tests.integration.kills.told_steps import lost_steps, steps_told
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
THREADS = 1  # of every stage: digests are compared on one machine with one thread count
WITH_EFFECTS = frozenset(
    {
        Stage.STAGE_BUNDLE,
        Stage.SHIFT_TRAFFIC,
        Stage.JUDGE_STEP,
        Stage.PROMOTE_RELEASE,
        Stage.ROLL_BACK_RELEASE,
        Stage.HOTFIX_STABLE,
        Stage.MIRROR_RELEASE,
    }
)
FOUND_AFTER_TRAFFIC = (
    Stage.JUDGE_STEP,
    Stage.ROLL_BACK_RELEASE,
    Stage.HOTFIX_STABLE,
    Stage.MIRROR_RELEASE,
)
CHECKPOINT_SECONDS = 0.1  # of train_model, whose epochs take less than a second here
# Shares of the kills, which all come after the first checkpoint: that go on from one, and from one inside an epoch.
LEAST_RESUMED = {Stage.TRAIN_MODEL: 0.75}
LEAST_INSIDE = {Stage.TRAIN_MODEL: 0.25}
LOADED_INTO = {Stage.STAGE_BUNDLE: Colour.GREEN, Stage.HOTFIX_STABLE: Colour.VIOLET}
# The clock, MLflow's own id and what hangs on them: all in which two equal effects may differ.
TIMES = frozenset(
    {
        *("at", "started_at", "promoted_at", "rolled_back_at", "hotfixed_at", "expires_at"),
        *("step_began_at", "run_id"),
    }
)
CHAIN = frozenset({"head", "previous", "digest", "ledger_digest"})  # digests over those times
MEASURED = frozenset({"latency_ms", "latency_ms_rest"})  # what the infra check's clock saw


def environment(state: Path) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("HEADRACE_")}
    threads = {name: str(THREADS) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {
        **kept,
        **threads,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "HEADRACE_STATE": str(state),
        "HEADRACE_TERMINATION_LOG": os.devnull,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


@dataclass
class KillWorld:
    """Where everything of the small release lies."""

    folder: Path
    mlflow: str | None = None
    forget_mirror: Callable[[], None] = lambda: None
    mirrored: Callable[[], Any] = lambda: None
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def state(self) -> Path:
        """The one state folder: servers watch the slots in it, so it is restored in its place."""
        return self.folder / "live" / "state"

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                words,
                env=environment(self.state),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.servers.append(process)
        return process

    def stop(self, *processes: subprocess.Popen[bytes]) -> None:
        for process in processes or self.servers:
            process.terminate()
        for process in processes or self.servers:
            process.wait(timeout=60)

    def choose_slots(self) -> None:
        """Write down three slots."""
        slots = {}
        for colour in Colour:
            folder = self.state / MODEL / "slots" / colour.value
            folder.mkdir(parents=True)
            ports = {"grpc": free_port(), "rest": free_port()}
            slots[colour.value] = {**ports, "directory": str(folder)}
        record = {"format": "slots/1", "model": MODEL, "slots": slots}
        (self.state / MODEL / "slots.json").write_text(json.dumps(record))

    def start_slots(self) -> None:
        """Start the servers of the slots; one whose port is taken meanwhile ends at once."""
        slots = json.loads((self.state / MODEL / "slots.json").read_text())["slots"]
        for colour in map(str, Colour):
            slot = slots[colour]
            self.start(
                colour,
                *(sys.executable, "-m", "tasks.serving"),
                *(f"--port={slot['grpc']}", f"--rest_api_port={slot['rest']}"),
                *(f"--model_name={MODEL}", f"--model_base_path={slot['directory']}"),
                *("--max_num_load_retries=0", "--num_load_threads=1"),
            )

    def build(self) -> None:
        script = ("-m", "tests.integration.kills.build_release", str(self.folder))
        builder = self.start("build", sys.executable, "-W", "ignore", *script)
        if builder.wait(timeout=900) != 0:
            raise AssertionError((self.folder / "build.log").read_text()[-3000:])

    def let_users_ask(self) -> None:
        """Run keeper, Envoy and shoppers until the step's share of the replay is used up."""
        files, port = router_files(self.state), free_port()
        write_bootstrap(files, port=port, admin_port=free_port(), host="127.0.0.1")
        cli, where = (sys.executable, "-m", "tasks.cli"), ("--state-dir", str(self.state))
        router = ("--router-url", f"http://127.0.0.1:{port}")
        running = [
            self.start("keeper", *cli, "keeper", *where),
            self.start("envoy", *envoy_command(files)),
            self.start("shoppers", *cli, "shoppers", *where, *router),
        ]
        mark = used_up_path(self.state, MODEL, RELEASE, 1)
        deadline = time.monotonic() + 180
        while not mark.exists():
            assert time.monotonic() < deadline, (self.folder / "shoppers.log").read_text()
            time.sleep(0.1)
        self.stop(*running)
        for stage in FOUND_AFTER_TRAFFIC:
            keep_what_is_found(self.folder, stage.value)

    # Subjects

    def subject(self, stage: Stage) -> Subject:
        place = self.folder / "trials" / stage.value
        store, asked = place / "store", place / "request.json"
        place.mkdir(parents=True, exist_ok=True)
        request = (self.folder / "requests" / f"{stage.value}.json").read_text()
        asked.write_text(request.replace(f'"{STORE}"', json.dumps(f"file://{store}")))
        state = self.state if stage in WITH_EFFECTS else place / "state"
        told = environment(state)
        if stage is Stage.MIRROR_RELEASE and self.mlflow is not None:
            told["HEADRACE_MLFLOW"] = self.mlflow
        made = Subject(
            name=stage.value,
            command=Command(
                words=(sys.executable, "-W", "ignore", "-m", "tasks", stage.value, str(asked)),
                environment=told,
                folder=ROOT,
            ),
            store=store,
            restore=lambda: self._restore(stage, store, state),
            result=lambda: self._result(stage, store, state),
        )
        return _in_training(made, place / "lines.jsonl") if stage is Stage.TRAIN_MODEL else made

    def _restore(self, stage: Stage, store: Path, state: Path) -> None:
        shutil.rmtree(store, ignore_errors=True)
        base, product = self.folder / "live" / "store", STAGE_FACTS[stage].produces.value
        own = _made(self.folder).get(stage.value, f"{product}/none")
        for kind in sorted(base.iterdir()):
            if kind.name in {"work", "ledger"}:
                continue
            for artifact in sorted(kind.iterdir()):
                if f"{kind.name}/{artifact.name}" != own:
                    shutil.copytree(
                        artifact, store / kind.name / artifact.name, copy_function=os.link
                    )
        found = self.folder / "found" / stage.value
        if not found.exists():
            return
        shutil.copytree(found / "ledger", store / "ledger")
        self._restore_state(found / "state", state)
        if stage in LOADED_INTO:
            for version in (state / MODEL / "slots" / LOADED_INTO[stage]).iterdir():
                shutil.rmtree(version)
        if stage is Stage.MIRROR_RELEASE:
            self.forget_mirror()

    def _restore_state(self, found: Path, state: Path) -> None:
        for path in (*state.glob("*"), *(state / MODEL).glob("*")):
            if path.name in {MODEL, "slots"} or not path.exists():
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(found, state, dirs_exist_ok=True)

    def _result(self, stage: Stage, store: Path, state: Path) -> Any:
        if stage not in WITH_EFFECTS:
            return digests(store)
        record = open_state(state, MODEL, ObjectStore(f"file://{store}"))
        return {
            "addresses": sorted(digests(store)),
            "payload": {
                path.name: without_times(json.loads(path.read_text()))
                for path in _payload_of(stage, store)
            },
            "state": without_times(json.loads(record.path.read_text())),
            "ledger": sorted(path.name for path in (store / "ledger").rglob("*.json")),
            "wrong with the ledger": record.verify(),
            "mirror": self.mirrored() if stage is Stage.MIRROR_RELEASE else None,
        }


def _made(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "made.json").read_text())
    return found


def _payload_of(stage: Stage, store: Path) -> list[Path]:
    product = store / STAGE_FACTS[stage].produces.value
    return sorted(product.glob("*/payload-*/*.json"))


def _facts(stage: Stage, store: Path) -> dict[str, Any]:
    for path in (store / STAGE_FACTS[stage].produces.value).glob("*/facts.json"):
        if (path.parent / "manifest.json").exists():
            found: dict[str, Any] = json.loads(path.read_text())
            return found
    return {}


def _in_training(subject: Subject, lines: Path) -> Subject:
    """Let kills of train_model fall between its first checkpoint and its last, and count what they cost."""
    told = {"HEADRACE_CHECKPOINT_SECONDS": str(CHECKPOINT_SECONDS), "HEADRACE_LOG_FILE": str(lines)}
    command = subject.command
    words = [w if w != "tasks" else "tests.integration.kills.told_steps" for w in command.words]

    def restore() -> None:
        subject.restore()
        lines.unlink(missing_ok=True)

    def resumed_from() -> str | None:
        return _facts(Stage.TRAIN_MODEL, subject.store).get("resumed_from")

    def lost(_killed: Ended, again: Ended) -> Lost:
        if "re-used: " in again.output:
            return Lost()  # the kill came after the seal: nothing was left to do
        first, *_, last = steps_told(lines)
        return lost_steps(first, last, resumed_from(), CHECKPOINT_SECONDS)

    return replace(
        subject,
        command=replace(command, words=words, environment={**command.environment, **told}),
        restore=restore,
        resumed=lambda again: None if "re-used: " in again.output else resumed_from(),
        lost=lost,
        mark=lambda: _newest_checkpoint(subject.store / "work"),
    )


def _newest_checkpoint(work: Path) -> int | None:
    """Return the number of the newest checkpoint, None where there is none."""
    with suppress(FileNotFoundError):  # removed meanwhile
        found = work.glob("*/checkpoints/checkpoint-*")
        return max((int(path.name.rpartition("-")[2]) for path in found), default=None)
    return None


def without_times(value: Any) -> Any:
    """Return a record without the clock's readings and the digests that hang on them."""
    if isinstance(value, list):
        return [without_times(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: "a time" if _is_time(name, item) else without_times(item)
        for name, item in value.items()
    }


def _is_time(name: str, value: Any) -> bool:
    return name in TIMES | MEASURED or (name in CHAIN and isinstance(value, str))


@contextmanager
def kill_world(folder: Path) -> Iterator[KillWorld]:
    """Build the small release with its users unless `folder` holds it, and keep its slots running."""
    world, built = KillWorld(folder=folder), folder / "built"
    if not built.exists():
        write_shop(folder / "shop")
        world.choose_slots()
    try:
        world.start_slots()
        if not built.exists():
            world.build()
            world.let_users_ask()
            built.touch()
        yield world
    finally:
        world.stop()
