"""The command line: help, exit codes, one-line errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.cli.command import explain, main
from tasks.cli.options import COMMANDS, PASSED_ON, build_parser
from tasks.contracts.errors import BadRequestError, GateRefusedError

ROOT = Path(__file__).resolve().parents[3]
WRONG_LINES = [
    (["nonsense"], "invalid choice: 'nonsense'"),
    (["predict"], "the following arguments are required: --user"),
    (["predict", "--user", "1", "-k", "0"], "expected a whole number above 0, found '0'"),
    (["predict", "--user", "1", "--model", "No!"], "expected a name of a-z, 0-9 and -"),
    (["gc", "--grace-hours", "-1"], "expected a number of hours from 0 on, found '-1'"),
    (["gc", "--grace-hours", "nan"], "expected a number of hours from 0 on, found 'nan'"),
    (["release", "--dataset", "netflix"], "invalid choice: 'netflix'"),
    (["release", "--recipe", "magic"], "invalid choice: 'magic'"),
    (["release", "--seed", "-3"], "expected a whole number from 0 on, found '-3'"),
    (["release", "--as-of", "2026-01-31"], "a time in UTC (ending in Z)"),
    (["history", "--at", "yesterday"], "expected ISO 8601 in UTC such as 2026-01-31T00:00:00Z"),
    (["rollback", "--release", "../7", "--reason", "x"], "number or id of a release, found '../7'"),
    (["rollback"], "the following arguments are required: --reason"),
    (["pause"], "the following arguments are required: --reason"),
    (["resume"], "the following arguments are required: --reason"),
    (["hotfix", "--reason", "x"], "one of the arguments --bundle --abandon is required"),
]
IMPOSSIBLE = [
    (["history"], "model recommender: expected one that was released, found none"),
    (["verify"], "model recommender: expected one that was released, found none"),
    (["verify", "7"], "model recommender: expected one that was released, found none"),
    (["rollback", "--reason", "test"], "expected one that was released, found none"),
    (["pause", "--reason", "test"], "expected one that was released, found none"),
    (["predict", "--user", "1"], "expected a running stack, found none; run `headrace up`"),
    (["release", "--dataset", "events"], "--dataset events: expected --events-url, found none"),
    (["release", "--events-url", "/x.csv"], "expected only with --dataset events"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.delenv("HEADRACE_STORE", raising=False)
    return tmp_path


def headrace(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tasks.cli", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("words", "said"), WRONG_LINES)
def test_a_wrong_command_line_is_exit_2_and_says_what_was_expected(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), IMPOSSIBLE)
def test_an_impossible_request_is_exit_4_in_one_line_without_a_traceback(
    words: list[str], said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 4
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.startswith("headrace: ")
    assert complaint.count("\n") == 1
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"usage: headrace {command}" in capsys.readouterr().out


def test_the_help_lists_what_people_use_and_nothing_internal() -> None:
    listed = build_parser().format_help()
    for command in (
        "demo",
        "release",
        "status",
        "predict",
        "history",
        "verify",
        "pause",
        "rollback",
    ):
        assert f"    {command} " in listed
    for internal in ("supervise", "keeper", "shoppers", "shadow"):
        assert internal not in listed


def test_help_is_there_at_once_and_loads_nothing_heavy() -> None:
    began = os.times().children_user
    script = (
        "import sys; from tasks.cli import main; main(['--help']);"
        "heavy = {'rich', 'numpy', 'pyarrow', 'fsspec', 'airflow', 'mlflow', 'torch'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert os.times().children_user - began < 0.3


def test_without_a_command_the_help_is_printed_and_the_exit_code_is_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_status_of_nothing_says_how_to_start_and_is_exit_1(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status"]) == 1
    assert capsys.readouterr().out == f"not running ({home}); `headrace up` starts it\n"


def test_down_of_nothing_is_fine(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0
    assert capsys.readouterr().out == f"nothing was running for {home}\n"


def test_debug_shows_where_an_error_comes_from() -> None:
    done = headrace("history", "--debug", HEADRACE_HOME="/nonexistent/headrace")
    assert "Traceback" in done.stderr
    assert "BadRequestError" in done.stderr


def test_a_relative_home_is_refused() -> None:
    done = headrace("status", HEADRACE_HOME="here")
    assert done.returncode == 4
    assert done.stderr == "headrace: HEADRACE_HOME: expected an absolute path, found 'here'\n"


@pytest.mark.parametrize(
    ("error", "exit_code", "said"),
    (
        pytest.param(BadRequestError("no"), 4, "no", id="an impossible request"),
        pytest.param(GateRefusedError("events", ["bad"]), 3, "Gate 'events'", id="a refusal"),
        pytest.param(KeyboardInterrupt(), 130, "interrupted", id="Ctrl-C"),
        pytest.param(
            ModuleNotFoundError("no mlflow", name="mlflow"),
            4,
            "half-installed environment: expected the module mlflow",
            id="a module that is missing",
        ),
        pytest.param(
            ZeroDivisionError("division by zero"), 1, "--debug shows where", id="a crash of ours"
        ),
    ),
)
def test_each_kind_of_error_has_its_sentence_and_exit_code(
    error: BaseException, exit_code: int, said: str
) -> None:
    failure = explain(error)
    assert failure.exit_code == exit_code
    assert said in failure.sentence


def test_commands_are_modules_that_can_be_run() -> None:
    import importlib

    for module in COMMANDS.values():
        assert callable(importlib.import_module(module).run)
    for module in PASSED_ON.values():
        assert callable(importlib.import_module(module).main)
