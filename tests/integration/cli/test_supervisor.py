"""The supervisor with real, light children: started in order, restarted, stopped for good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.cli.parts import Part
from tasks.cli.processes import Identity, marked
from tasks.cli.supervisor import Supervisor, clear_leftovers, held, is_held
from tasks.contracts.errors import ConflictError

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
)
# A parent whose child lives in a session of its own, as Airflow's stages do.
PARENT = (
    sys.executable,
    "-c",
    """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
""",
)
DRIVER = """
import json, sys
from pathlib import Path
from tasks.cli.parts import Part
from tasks.cli.processes import Identity
from tasks.cli.supervisor import Supervisor
import os
folder = Path(sys.argv[1])
def plan():
    rows = json.loads((folder / "plan.json").read_text())
    return [Part(**{**row, "command": tuple(row["command"]), "after": tuple(row.get("after", ())),
                    "stamp": Path(row["stamp"]) if row.get("stamp") else None}) for row in rows]
me = Identity.of(os.getpid()).to_record()
Supervisor(plan=plan, logs=folder, record=folder / "stack.json", stack_id=sys.argv[2],
           about=lambda: {"stack_id": sys.argv[2], "supervisor": me}).run()
"""


class RunningSupervisor:
    """A supervisor in a process of its own, following the plan in a file."""

    def __init__(self, folder: Path, stack_id: str) -> None:
        self.folder = folder
        self.stack_id = stack_id
        self.process: subprocess.Popen[bytes] | None = None

    def plan(self, *rows: dict[str, object]) -> None:
        scratch = self.folder / "plan.scratch"
        scratch.write_text(json.dumps(rows))
        scratch.replace(self.folder / "plan.json")

    def start(self) -> None:
        root = Path(__file__).parents[3]
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.folder), self.stack_id],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )

    def part(self, name: str) -> dict[str, object]:
        try:
            parts = json.loads((self.folder / "stack.json").read_text())["parts"]
        except (FileNotFoundError, ValueError):
            return {}
        return dict(parts.get(name, {}))

    def pid(self, name: str) -> int | None:
        process = self.part(name).get("process")
        return process["pid"] if isinstance(process, dict) else None

    def wait_for(self, name: str, status: str, *, other_than: int | None = -1) -> int | None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.part(name).get("status") == status and self.pid(name) != other_than:
                return self.pid(name)
            time.sleep(0.05)
        pytest.fail(f"{name}: expected {status}, found {self.part(name)}")

    def terminate(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=30)


def wait_until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def supervisor(tmp_path: Path):
    running = RunningSupervisor(tmp_path, f"test-{os.getpid()}-{tmp_path.name}")
    yield running
    if running.process is not None and running.process.poll() is None:
        running.process.kill()
        running.process.wait()
    for left in marked(running.stack_id):
        os.kill(left.pid, signal.SIGKILL)


def test_a_child_killed_with_9_is_started_again_and_the_record_says_why(
    supervisor: RunningSupervisor,
) -> None:
    supervisor.plan({"name": "sleeper", "command": SLEEPER})
    supervisor.start()
    first = supervisor.wait_for("sleeper", "ready")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    second = supervisor.wait_for("sleeper", "ready", other_than=first)
    assert second != first
    assert supervisor.part("sleeper")["restarts"] == 1
    supervisor.terminate()
    assert marked(supervisor.stack_id) == []


def test_stopping_leaves_nothing_neither_the_stubborn_nor_grandchildren_of_their_own_session(
    supervisor: RunningSupervisor,
) -> None:
    supervisor.plan(
        {"name": "stubborn", "command": STUBBORN, "polite_seconds": 0.5},
        {"name": "parent", "command": PARENT, "stop_rank": 1},
    )
    supervisor.start()
    supervisor.wait_for("stubborn", "ready")
    supervisor.wait_for("parent", "ready")
    deadline = time.monotonic() + 10
    while len(marked(supervisor.stack_id)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(marked(supervisor.stack_id)) == 3
    supervisor.terminate()
    assert marked(supervisor.stack_id) == []


def test_a_part_killed_with_9_takes_what_it_started_with_it_and_nothing_of_other_parts(
    supervisor: RunningSupervisor,
) -> None:
    supervisor.plan({"name": "parent", "command": PARENT}, {"name": "other", "command": PARENT})
    supervisor.start()
    first = supervisor.wait_for("parent", "ready")
    other = supervisor.wait_for("other", "ready")
    assert first is not None
    wait_until(lambda: len(marked(supervisor.stack_id)) == 4)
    orphans = {process.pid for process in marked(supervisor.stack_id, "parent")} - {first}
    untouched = {process.pid for process in marked(supervisor.stack_id, "other")}
    os.kill(first, signal.SIGKILL)
    supervisor.wait_for("parent", "ready", other_than=first)
    wait_until(lambda: len(marked(supervisor.stack_id)) == 4)
    assert not orphans & {process.pid for process in marked(supervisor.stack_id)}
    assert {process.pid for process in marked(supervisor.stack_id, "other")} == untouched
    assert supervisor.pid("other") == other


def test_a_killed_supervisor_leaves_children_that_the_next_one_ends(
    supervisor: RunningSupervisor,
) -> None:
    supervisor.plan({"name": "parent", "command": PARENT})
    supervisor.start()
    supervisor.wait_for("parent", "ready")
    assert supervisor.process is not None
    supervisor.process.kill()
    supervisor.process.wait()
    assert marked(supervisor.stack_id)
    assert clear_leftovers(supervisor.folder / "stack.json", supervisor.folder) >= 1
    assert marked(supervisor.stack_id) == []


def test_a_step_runs_once_before_what_waits_for_it_and_not_again(
    supervisor: RunningSupervisor, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    step = (sys.executable, "-c", f"open({str(count)!r}, 'a').write('x')")
    stamp = {"stamp": str(tmp_path / "done"), "stamp_text": "v1"}
    supervisor.plan(
        {"name": "server", "command": SLEEPER, "after": ["step"]},
        {"name": "step", "command": step, **stamp},
    )
    supervisor.start()
    supervisor.wait_for("server", "ready")
    assert supervisor.part("step")["status"] == "finished"
    supervisor.terminate()
    supervisor.start()
    supervisor.wait_for("server", "ready")
    assert count.read_text() == "x"


def test_a_failing_step_holds_up_what_waits_for_it_and_its_last_words_are_the_note(
    supervisor: RunningSupervisor, tmp_path: Path
) -> None:
    step = (sys.executable, "-c", "raise SystemExit('no space left')")
    supervisor.plan(
        {"name": "server", "command": SLEEPER, "after": ["step"]},
        {"name": "step", "command": step, "stamp": str(tmp_path / "done")},
    )
    supervisor.start()
    supervisor.wait_for("step", "backing off")
    assert "exit code 1: no space left" in str(supervisor.part("step")["note"])
    assert supervisor.part("server")["status"] == "waiting"


def test_parts_follow_the_plan_while_running(supervisor: RunningSupervisor) -> None:
    supervisor.plan({"name": "one", "command": SLEEPER})
    supervisor.start()
    one = supervisor.wait_for("one", "ready")
    supervisor.plan(
        {"name": "one", "command": SLEEPER, "environment": {"CHANGED": "yes"}},
        {"name": "two", "command": SLEEPER},
    )
    supervisor.wait_for("two", "ready")
    supervisor.wait_for("one", "ready", other_than=one)
    supervisor.plan({"name": "one", "command": SLEEPER, "environment": {"CHANGED": "yes"}})
    deadline = time.monotonic() + 10
    while supervisor.part("two") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert supervisor.part("two") == {}


def test_a_program_that_is_not_there_is_a_note_not_a_crash(supervisor: RunningSupervisor) -> None:
    supervisor.plan({"name": "lost", "command": ("/no/such/program",)})
    supervisor.start()
    supervisor.wait_for("lost", "backing off")
    assert "could not be started" in str(supervisor.part("lost")["note"])


def test_a_recorded_pid_that_now_belongs_to_somebody_else_is_left_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen(SLEEPER, start_new_session=True)
    try:
        record = {
            "format": "stack/1",
            "stack_id": "an-earlier-stack",
            "parts": {"old": {"process": {"pid": bystander.pid, "started": "another boot:1"}}},
        }
        (tmp_path / "stack.json").write_text(json.dumps(record))
        assert clear_leftovers(tmp_path / "stack.json", tmp_path) == 0
        assert Identity.of(bystander.pid) is not None
    finally:
        bystander.kill()
        bystander.wait()


def test_two_supervisors_of_one_home_are_refused(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_held(lock)
    with held(lock):
        assert is_held(lock)
        with pytest.raises(ConflictError, match="found a running supervisor"), held(lock):
            pass
    assert not is_held(lock)


def test_a_part_that_never_answers_is_ended_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.cli.supervisor.START_SECONDS", 0.3)
    part = Part(name="mute", command=SLEEPER, ready_file=tmp_path / "never")
    supervisor = Supervisor(
        plan=lambda: [part],
        logs=tmp_path,
        record=tmp_path / "stack.json",
        about=dict,
        stack_id=f"mute-{os.getpid()}",
    )
    try:
        deadline = time.monotonic() + 10
        row: dict[str, object] = {}
        while row.get("status") != "backing off" and time.monotonic() < deadline:
            supervisor._tick()
            row = json.loads((tmp_path / "stack.json").read_text())["parts"]["mute"]
            time.sleep(0.05)
        assert row["note"] == "did not answer within 0 s of its start"
    finally:
        supervisor._stop_all()
    assert marked(f"mute-{os.getpid()}") == []
