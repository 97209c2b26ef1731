"""Full disks, read-only file systems and homes that cannot be: a sentence, never a traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.cli.command import explain
from tasks.cli.supervisor import Supervisor
from tests.small_disks import Mount, fill, read_only

ROOT = Path(__file__).resolve().parents[3]


def headrace(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: text for name, text in os.environ.items() if name != "HEADRACE_STORE"}
    return subprocess.run(
        [sys.executable, "-m", "tasks.cli", *words],
        cwd=ROOT,
        env={**kept, "HEADRACE_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_stack_is_not_started_on_a_full_disk(mount: Mount) -> None:
    disk = mount("size=1m")
    done = headrace(disk / "home", "up")
    assert done.returncode == 1  # a retry helps once there is room
    assert done.stderr == (
        f"headrace: {disk}/home: expected at least 500 MB of free disk, found 1 MB; free some "
        "space (`headrace gc` removes what no release reaches), or set HEADRACE_HOME to another "
        "disk\n"
    )


def test_a_new_home_on_a_read_only_file_system_is_refused(mount: Mount) -> None:
    home = read_only(mount("size=1m")) / "home"
    done = headrace(home, "up")
    assert done.returncode == 4
    assert f"headrace: {home}: expected a folder that can be written, found: " in done.stderr
    assert done.stderr.endswith("set HEADRACE_HOME to another folder\n")
    assert done.stderr.count("\n") == 1


def test_a_home_that_became_read_only_is_refused_when_something_must_be_written(
    mount: Mount,
) -> None:
    home = mount("size=1g")
    for name in ("state", "logs", "airflow", "mlflow", "cache"):
        (home / name).mkdir()
    read_only(home)
    done = headrace(home, "up")
    assert (done.returncode, done.stderr) == (
        4,
        (
            f"headrace: {home}/logs/supervisor.log: Read-only file system; set HEADRACE_HOME to a "
            "folder that can be written\n"
        ),
    )
    status = headrace(home, "status")
    assert status.returncode == 1
    lines = status.stdout.splitlines()
    assert lines[0] == f"not running ({home}); `headrace up` starts it (and 1 more)"
    assert lines[1] == f"also: {home}: cannot be written (read-only file system, or not yours)"


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for command in ("up", "demo"):
        done = headrace(tmp_path / "file" / "home", command)
        assert done.returncode == 4
        assert "expected a folder that can be written, found: [Errno 20]" in done.stderr
        assert done.stderr.count("\n") == 1


def test_json_lines_are_chosen_by_the_environment_and_a_wrong_choice_is_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    done = headrace(tmp_path / "file" / "home", "up", HEADRACE_LOG="json")
    assert done.returncode == 4
    assert done.stderr.startswith('{"time": "')
    assert '"level": "error", "process": "up"' in done.stderr
    done = headrace(tmp_path, "up", HEADRACE_LOG="yaml")
    assert (done.returncode, done.stderr) == (
        4,
        "headrace: HEADRACE_LOG: expected plain or json, found 'yaml'\n",
    )
    done = headrace(tmp_path, "keeper", "--state-dir", str(tmp_path), HEADRACE_LOG="yaml")
    assert done.returncode == 4
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "code", "next_step"),
    (
        pytest.param(
            errno.ENOSPC, 1, "free some space", id="a full disk: again when there is room"
        ),
        pytest.param(errno.EDQUOT, 1, "free some space", id="a quota"),
        pytest.param(errno.EROFS, 4, "a folder that can be written", id="read-only"),
        pytest.param(errno.EACCES, 4, "a folder that can be written", id="not ours"),
        pytest.param(errno.EIO, 1, "--debug shows where", id="anything else is a crash"),
    ),
)
def test_what_the_system_refuses_has_a_next_step(number: int, code: int, next_step: str) -> None:
    failure = explain(OSError(number, os.strerror(number), "/srv/home/state.json"))
    assert failure.exit_code == code
    assert next_step in failure.sentence


def test_a_supervisor_on_a_full_disk_says_so_once_and_goes_on(mount: Mount, tmp_path: Path) -> None:
    disk = mount("size=64k")
    said: list[str] = []
    supervisor = Supervisor(
        plan=list,
        logs=disk,
        record=disk / "stack.json",
        about=lambda: {"filler": str(len(said))},
        stack_id="full",
        say=said.append,
    )
    supervisor._tick()
    assert (disk / "stack.json").exists()
    filler = fill(disk)
    said.append("changes the record")
    supervisor._tick()
    supervisor._tick()
    assert [line for line in said if "No space left" in line] == [said[1]]
    filler.unlink()
    supervisor._tick()
    assert '"filler": "2"' in (disk / "stack.json").read_text()
