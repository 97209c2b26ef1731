"""The whole local stack, its parts killed with -9 and stopped in the middle of releases."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.cli.home import Home
from tasks.cli.processes import marked
from tasks.cli.stack import StackReport, airflow_of, the_running
from tasks.contracts.catalogues import RELEASE_DAGS, Material
from tasks.contracts.errors import HeadraceError
from tasks.rollout.state import open_state
from tests.integration.kills.driver import digests, problems
from tests.integration.kills.small_shop import AS_OF, write_shop

ROOT = Path(__file__).resolve().parents[3]
MODEL = "shop"
USERS = 700  # 5 % of them are enough for the first step of the plan
PATIENCE_SECONDS = 1500.0
# Made without users: equal bytes whatever was killed while they were made.
PURE = ("validated_events", "feature_set", "trained_model", "compressed_model", "serving_bundle")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]


def patiently(look: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Return the first thing found; the stack may be away meanwhile."""
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (HeadraceError, OSError) as error:
            last = str(error)
        time.sleep(0.3)
    message = f"not seen within {seconds:.0f} s; last trouble: {last or 'none'}"
    raise AssertionError(message)


@dataclass
class Stack:
    """One home with its stack, used through the command only."""

    home: Home
    shop: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("HEADRACE")}
        return {**kept, "HEADRACE_HOME": str(self.home.root), "PYTHONPATH": str(ROOT)}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "tasks.cli", *words]

    def run(self, *words: str) -> str:
        done = subprocess.run(
            self.command(*words), env=self.environment, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        return done.stdout

    def release_words(self, recipe: str, *more: str) -> tuple[str, ...]:
        return (
            *("release", "--dataset", "events", "--model", MODEL, "--recipe", recipe),
            *("--events-url", str(self.shop / "events.parquet"), "--as-of", AS_OF),
            *("--catalogue-url", str(self.shop / "catalogue.parquet"), "--first", *more),
        )

    def release(self, recipe: str, log: Path, *more: str) -> subprocess.Popen[bytes]:
        with log.open("wb") as writer:
            return subprocess.Popen(
                self.command(*self.release_words(recipe, *more)),
                env=self.environment,
                cwd=ROOT,
                stdout=writer,
                stderr=writer,
            )

    @property
    def report(self) -> StackReport:
        return the_running(self.home)

    def states(self, run: str) -> dict[str, str | None]:
        airflow = airflow_of(self.home, self.report)
        return {row.task_id: row.state for row in airflow.tasks(RELEASE_DAGS[Material.EVENTS], run)}

    def ended(self, run: str) -> str:
        state = airflow_of(self.home, self.report).run_state(RELEASE_DAGS[Material.EVENTS], run)
        return state if state in {"success", "failed"} else ""

    def kill(self, part: str) -> None:
        """Kill a part with 9 and wait until another process of it is ready."""
        before = next(one for one in self.report.parts if one.name == part)
        assert before.pid is not None, before
        os.kill(before.pid, signal.SIGKILL)
        patiently(lambda: self._another(part, before.pid), 240)

    def _another(self, part: str, pid: int | None) -> bool:
        now = next(one for one in self.report.parts if one.name == part)
        return now.pid not in {None, pid} and now.status.value == "ready"

    @property
    def served(self) -> int | None:
        stable = open_state(self.home.state, MODEL).peek().stable
        return None if stable is None else stable.release_number

    def ask(self) -> list[str]:
        """Ask the router for a user's items."""
        inputs = {"history": [["item-0-01"]], "steps_ago": [[1]]}
        url = f"{self.report.addresses['router']}/v1/models/{MODEL}:predict"
        request = urllib.request.Request(
            url, json.dumps({"inputs": inputs}).encode(), {"x-model": MODEL}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            found: list[str] = json.load(answer)["outputs"]["items"][0]
            return found


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    kept = os.environ.get("KILLS_HOME")  # to look at it afterwards
    folder = Path(kept) if kept else tmp_path
    write_shop(folder / "shop", USERS)
    root = folder / "home"
    made = Stack(home=Home(root=root, store_url=f"file://{root}/store"), shop=folder / "shop")
    try:
        made.run("up")
        yield made
    finally:
        made.run("down")


def run_id(log: Path) -> str:
    found = patiently(lambda: re.search(r"release (\S+?-\d{8}T\S+): ", log.read_text()))
    return str(found.group(1))


def not_well(states: dict[str, str | None]) -> dict[str, str | None]:
    return {task: state for task, state in states.items() if state not in {"success", "skipped"}}


def seen_running(stack: Stack, run: str, task: str) -> None:
    patiently(lambda: stack.states(run).get(task) in {"running", "deferred"})


def test_parts_killed_and_the_stack_stopped_in_the_middle_every_release_ends_well(
    stack: Stack, tmp_path: Path
) -> None:
    store = stack.home.root / "store"

    first_log = tmp_path / "first.log"
    first = stack.release("popularity", first_log)
    run = run_id(first_log)
    seen_running(stack, run, "build_features")
    stack.kill("airflow-scheduler")
    stack.kill("keeper")
    stack.kill("envoy")
    assert first.wait(timeout=PATIENCE_SECONDS) == 0, first_log.read_text()
    assert stack.served == 1
    assert problems(store) == []
    before = stack.ask()

    for part in (f"{MODEL}-blue", "envoy", "keeper"):
        stack.kill(part)
        assert patiently(stack.ask, 120) == before

    second_log = tmp_path / "second.log"
    second = stack.release("markov", second_log)
    run = run_id(second_log)
    seen_running(stack, run, "train_model")
    stack.kill(f"{MODEL}-blue")
    seen_running(stack, run, "step_2.bake")
    second.send_signal(signal.SIGINT)
    second.wait(timeout=60)
    stack_id = stack.report.stack_id
    stack.run("down")
    assert marked(stack_id) == []
    assert problems(store) == []
    stack.run("up")
    assert patiently(lambda: stack.ended(run)) == "success", not_well(stack.states(run))
    assert stack.served == 2
    assert problems(store) == []
    assert open_state(stack.home.state, MODEL, ObjectStore(f"file://{store}")).verify() == []
    stack.run("verify", "2", "--model", MODEL)

    assert_undisturbed(store, stack.shop, tmp_path / "undisturbed")


def assert_undisturbed(store: Path, shop: Path, folder: Path) -> None:
    """Make the second release's artifacts again in another store, and compare their digests."""
    (folder / "live" / "state" / MODEL).mkdir(parents=True)
    (folder / "shop").symlink_to(shop)
    code = (
        "import sys; from pathlib import Path; "
        "from tests.integration.kills.build_release import Builder, made_before_staging; "
        "made_before_staging(Builder(Path(sys.argv[1])), 'markov')"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "HEADRACE_STATE": str(folder / "live" / "state"),
    }
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    undisturbed = digests(folder / "live" / "store")
    killed = digests(store)
    compared = {name: content for name, content in undisturbed.items() if name.startswith(PURE)}
    assert len(compared) == len(PURE)
    assert {name: killed.get(name) for name in compared} == compared
