from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[3]
TASKS = [sys.executable, "-u", "-m", "tasks"]


def environment(tmp_path: Path) -> dict[str, str]:
    said = str(tmp_path / "termination-log")
    return {**os.environ, "PYTHONPATH": str(ROOT), "HEADRACE_TERMINATION_LOG": said}


def warm(socket: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tasks.warm_start", "run", str(socket), *arguments]


def await_true(met: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not met():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not met in {seconds} s"
        time.sleep(0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[psutil.Process, Path]]:
    socket = tmp_path / "warm"
    command = [sys.executable, "-m", "tasks.warm_start", "serve", str(socket), "decimal"]
    process = subprocess.Popen(command, env=environment(tmp_path), cwd=tmp_path)
    try:
        await_true(socket.is_socket)
        yield psutil.Process(process.pid), socket
    finally:
        process.kill()
        process.wait()


def ask(command: list[str], tmp_path: Path) -> tuple[int, str, str]:
    (tmp_path / "termination-log").unlink(missing_ok=True)
    done = subprocess.run(
        command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, (tmp_path / "termination-log").read_text()


def test_a_warm_stage_says_and_ends_what_a_cold_one_does(
    server: tuple[psutil.Process, Path], tmp_path: Path
) -> None:
    (tmp_path / "request.json").write_text("{")
    cold = ask([*TASKS, "gate_artifact", "request.json"], tmp_path)
    assert ask(warm(server[1], "gate_artifact", "request.json"), tmp_path) == cold
    assert cold[0] == 4
    assert "request.json" in cold[2]


def test_the_server_forks_and_does_not_itself_run_the_stage(
    server: tuple[psutil.Process, Path], tmp_path: Path
) -> None:
    asker = subprocess.Popen(
        warm(server[1], "gate_artifact", "-"), env=environment(tmp_path), stdin=subprocess.PIPE
    )
    await_true(server[0].children)
    (stage,) = server[0].children()
    assert stage.exe() == server[0].exe()
    asker.kill()  # as Airflow does in the end: nothing may go on behind its back
    asker.wait()
    await_true(lambda: not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE)
    assert server[0].is_running()


def test_a_killed_stage_is_a_crash_of_the_one_who_asked(
    server: tuple[psutil.Process, Path], tmp_path: Path
) -> None:
    asker = subprocess.Popen(
        warm(server[1], "gate_artifact", "-"), env=environment(tmp_path), stdin=subprocess.PIPE
    )
    await_true(server[0].children)
    time.sleep(0.5)
    server[0].children()[0].send_signal(signal.SIGKILL)
    assert asker.wait(timeout=20) == 137


@pytest.mark.parametrize("there", (False, True), ids=("no socket", "a socket of a dead server"))
def test_without_a_server_the_stage_runs_all_the_same(tmp_path: Path, there: bool) -> None:
    socket = tmp_path / "warm"
    if there:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.warm_start", "serve", str(socket)],
            env=environment(tmp_path),
        )
        await_true(socket.is_socket)
        process.kill()
        process.wait()
    (tmp_path / "request.json").write_text("{")
    assert ask(warm(socket, "gate_artifact", "request.json"), tmp_path)[0] == 4


def test_a_server_whose_packages_changed_declines(
    server: tuple[psutil.Process, Path], tmp_path: Path
) -> None:
    (tmp_path / "request.json").write_text("{")
    os.utime(sysconfig.get_path("purelib"))
    assert ask(warm(server[1], "gate_artifact", "request.json"), tmp_path)[0] == 4
    assert server[0].children() == []


def test_no_source_of_ours_is_loaded_before_the_fork() -> None:
    code = "import sys, tasks.warm_start; print([m for m in sys.modules if m[:6] == 'tasks.'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "['tasks.warm_start']"
