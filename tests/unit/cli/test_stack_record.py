"""The record of a stack: damaged, of another checkout, naming processes that are others by now."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.cli import stack
from tasks.cli.command import main
from tasks.cli.home import CHECKOUT, Home
from tasks.cli.processes import MARKER, Identity, marked, marked_of_home, stop_marked
from tasks.cli.supervisor import clear_leftovers, held, holder_of
from tasks.contracts.errors import BadRequestError

LOST, YOUNG = (f"{name}-{os.getpid()}" for name in ("lost", "young"))  # ids of stacks
SLEEPER = (sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)")


def sleeper(marks: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Return a process that runs: while it is only just made, its environment cannot be read."""
    made = subprocess.Popen(
        SLEEPER, env={**os.environ, **marks}, start_new_session=True, stdout=subprocess.PIPE
    )
    assert made.stdout is not None
    assert made.stdout.readline() == b"here\n"
    made.stdout.close()
    return made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.delenv("HEADRACE_STORE", raising=False)
    made = Home.from_environment()
    made.create()
    return made


@pytest.fixture
def leftover(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """A process as a stack of this home starts them."""
    marks = {MARKER: LOST, "HEADRACE_HOME": str(home.root)}
    process = sleeper(marks)
    yield process
    process.kill()
    process.wait()


def record(**changed: Any) -> str:
    me = Identity.of(os.getpid())
    assert me is not None
    return json.dumps(
        {
            "format": "stack/1",
            "stack_id": "s",
            "supervisor": me.to_record(),
            "addresses": {"airflow": "http://127.0.0.1:1", "mlflow": "http://127.0.0.1:1"},
            "notes": [],
            "data_folder": None,
            "parts": {},
            "checkout": str(CHECKOUT),
        }
        | changed
    )


DAMAGED = (
    pytest.param("{", "expected a JSON object", id="cut in the middle"),
    pytest.param("", "expected a JSON object", id="empty"),
    pytest.param("[]", "expected a JSON object, found list", id="another kind of JSON"),
    pytest.param('{"format": "stack/1"}', "found a bad field: KeyError('stack_id')", id="a field"),
    pytest.param(record(parts=[]), "found a bad field", id="parts of another type"),
)


@pytest.mark.parametrize(("text", "said"), DAMAGED)
def test_a_damaged_record_is_said_in_one_line_with_the_next_step(
    home: Home, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home.stack_file.write_text(text)
    assert main(["status"]) == 1
    line = capsys.readouterr().out.splitlines()[0]
    assert str(home.stack_file) in line
    assert said in line
    assert line.endswith(f"; {stack.DAMAGED}")
    assert main(["up"]) == 4
    assert stack.DAMAGED in capsys.readouterr().err


@pytest.mark.parametrize(("text", "said"), DAMAGED)
def test_down_ends_what_carries_the_mark_of_the_home_and_sets_a_damaged_record_aside(
    home: Home, leftover: subprocess.Popen[bytes], text: str, said: str
) -> None:
    home.stack_file.write_text(text)
    assert [process.pid for process in marked_of_home(home.root)] == [leftover.pid]
    assert main(["down"]) == 0
    leftover.wait(10)
    assert not home.stack_file.exists()
    assert (home.root / "stack.damaged.json").read_text() == text
    assert main(["status"]) == 1  # not running, and nothing to complain about


def test_down_without_any_record_ends_what_carries_the_mark(
    home: Home, leftover: subprocess.Popen[bytes]
) -> None:
    assert main(["down"]) == 0
    leftover.wait(10)


@pytest.fixture
def ended_stack(home: Home) -> None:
    """The record of an earlier stack, whose supervisor has ended; `leftover` is not of it."""
    home.stack_file.write_text(record(stack_id="earlier", supervisor=None))


@pytest.mark.usefixtures("ended_stack")
def test_down_ends_what_the_record_of_an_earlier_stack_does_not_know(
    home: Home, leftover: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status"]) == 1
    assert capsys.readouterr().out.startswith(
        "the supervisor has ended but left 1 processes running; `headrace down` ends them"
    )
    assert main(["down"]) == 0
    assert "ended 1 processes that had been left running" in capsys.readouterr().out
    leftover.wait(10)
    assert home.stack_file.exists()  # it can be read


@pytest.mark.usefixtures("ended_stack")
def test_the_next_start_ends_it_too(home: Home, leftover: subprocess.Popen[bytes]) -> None:
    assert clear_leftovers(home.stack_file, home.root) == 1
    leftover.wait(10)


def test_a_home_under_another_name_is_known_by_its_stack(
    home: Home, leftover: subprocess.Popen[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = tmp_path_factory.mktemp("links") / "home"
    link.symlink_to(home.root)
    home.stack_file.write_text(record(stack_id=LOST, supervisor=None))
    assert clear_leftovers(link / "stack.json", link) == 1
    leftover.wait(10)


DIES_WHEN_IT_WRITES = """
import os, sys
from pathlib import Path
from tasks.cli.parts import Part
from tasks.cli.supervisor import Supervisor
folder, writes = Path(sys.argv[1]), iter(range(int(sys.argv[2])))
def about():
    if next(writes, None) is None:
        os.kill(os.getpid(), 9)
    return {"stack_id": sys.argv[3], "supervisor": None}
part = Part(name="sleeper", command=(sys.executable, "-c", "import time; time.sleep(600)"))
Supervisor(plan=lambda: [part], logs=folder, record=folder / "stack.json", about=about,
           stack_id=sys.argv[3]).run()
"""


@pytest.mark.parametrize(
    ("writes", "started"),
    (
        pytest.param(0, 0, id="before its first record: nothing has been started"),
        pytest.param(1, 1, id="before its second: the first one knows the stack"),
    ),
)
def test_a_supervisor_killed_in_its_first_tick_leaves_nothing_that_cannot_be_found(
    tmp_path: Path, writes: int, started: int
) -> None:
    words = (sys.executable, "-c", DIES_WHEN_IT_WRITES, str(tmp_path), str(writes), YOUNG)
    kept = {name: text for name, text in os.environ.items() if name != "HEADRACE_HOME"}
    done = subprocess.run(words, cwd=CHECKOUT, env=kept, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    try:
        assert len(marked(YOUNG)) == started
        # No home is named to it: only the record can tell.
        assert clear_leftovers(tmp_path / "stack.json", tmp_path) == started
    finally:
        assert stop_marked(YOUNG, polite_seconds=1) == 0


def test_processes_of_another_home_are_left_alone(
    home: Home, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    marks = {MARKER: LOST, "HEADRACE_HOME": str(other)}
    bystander = sleeper(marks)
    try:
        home.stack_file.write_text("{")
        assert main(["down"]) == 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_supervisor_whose_pid_is_somebody_elses_by_now_is_not_running(home: Home) -> None:
    home.stack_file.write_text(record())
    assert stack.running(home) is not None
    recycled = {"pid": os.getpid(), "started": "another boot:1"}
    home.stack_file.write_text(record(supervisor=recycled))
    assert stack.running(home) is None
    home.stack_file.write_text(record(supervisor={"pid": 2**22 + 1, "started": "x:1"}))
    assert stack.running(home) is None


def test_the_lock_says_who_holds_it_for_when_the_record_does_not(home: Home) -> None:
    assert holder_of(home.lock_file) is None
    with held(home.lock_file):
        assert holder_of(home.lock_file) == Identity.of(os.getpid())
        home.lock_file.write_text("")
        assert holder_of(home.lock_file) is None
    assert holder_of(home.lock_file) is None


def test_the_stack_of_another_checkout_is_refused_and_its_home_named(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.stack_file.write_text(record(checkout="/srv/other"))
    assert main(["up"]) == 4
    assert capsys.readouterr().err == (
        f"headrace: {home.root}: expected a home of this checkout ({CHECKOUT}), found the running "
        f"stack of another one, /srv/other (supervisor {os.getpid()}); set HEADRACE_HOME to another "
        "folder, or stop that stack first: `headrace down`\n"
    )
    assert main(["release", "--recipe", "popularity"]) == 4


@pytest.mark.parametrize("checkout", (str(CHECKOUT), None))
def test_the_stack_of_this_checkout_and_of_an_older_record_is_used(
    home: Home, checkout: str | None
) -> None:
    home.stack_file.write_text(record(checkout=checkout))
    report = stack.the_running(home)
    stack.demand_same_checkout(home, report)


def test_a_home_below_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    home = Home(root=tmp_path / "file" / "home", store_url="file:///x")
    with pytest.raises(BadRequestError, match="expected a folder that can be written"):
        home.create()
