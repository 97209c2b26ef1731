from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / ".ci" / "run"
TOOLS = ("promtool", "prometheus")


def ci(folder: Path, tools: tuple[str, ...], make: str) -> tuple[int, list[str]]:
    """Run `.ci/run` with a `make` of ours and nothing but `tools`; return its code and lines."""
    (folder / "checkout" / ".ci").mkdir(parents=True)
    run = shutil.copy(RUN, folder / "checkout" / ".ci" / "run")
    commands = folder / "bin"
    commands.mkdir()
    for name in ("bash", "dirname"):
        (commands / name).symlink_to(str(shutil.which(name)))
    for name, script in (("make", make), *((tool, "exit 0") for tool in tools)):
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    command = [str(commands / "bash"), run]
    done = subprocess.run(command, env={"PATH": str(commands)}, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("tools", (TOOLS, TOOLS[:1], ()))
def test_ci_says_which_tests_will_skip_and_goes_on(tmp_path: Path, tools: tuple[str, ...]) -> None:
    code, lines = ci(tmp_path, tools, 'echo "make $1"; [ "$1" != setup-prometheus ]')
    said = [line for line in lines if "tests of metrics and alerts will skip" in line]
    missing = TOOLS[len(tools) :]
    assert all(f"no {tool} on PATH" in one for tool, one in zip(missing, said, strict=True))
    asked = [line for line in lines if line.startswith("make ")]
    assert (code, asked) == (
        0,
        ["make setup-prometheus", "make test", "make trials", "make check"],
    )


def test_a_failed_test_still_fails_ci(tmp_path: Path) -> None:
    assert ci(tmp_path, (), '[ "$1" != test ]')[0] != 0
