from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.cli import installed
from tasks.contracts.errors import BadRequestError

WANTED = {"mlflow": "3.17.2", "torch": "2.13.0", "typing-extensions": "4.1"}


@pytest.mark.parametrize(
    ("found", "said"),
    (
        pytest.param(WANTED, [], id="all there"),
        pytest.param({**WANTED, "torch": "2.13.0+cpu"}, [], id="another build of the same version"),
        pytest.param({**WANTED, "more": "1"}, [], id="more than the lock names"),
        pytest.param(
            {"mlflow": "3.17.2", "torch": "2.13.0"},
            ["typing-extensions 4.1 (missing)"],
            id="a package is missing",
        ),
        pytest.param(
            {**WANTED, "mlflow": "3.16.0"},
            ["mlflow 3.17.2 (3.16.0 is installed)"],
            id="a package has another version",
        ),
    ),
)
def test_what_differs_from_the_locks_is_named(found: dict[str, str], said: list[str]) -> None:
    assert installed.differences(WANTED, found) == said


def test_the_locks_are_read_and_this_environment_is_what_they_say() -> None:
    pinned = installed.pinned()
    assert pinned["apache-airflow"] == "3.3.2"
    assert len(pinned) > 100
    installed.demand_installed()


def a_package(site: Path, name: str, version: str) -> None:
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_installed_packages_are_found_under_one_spelling(tmp_path: Path) -> None:
    a_package(tmp_path, "Typing_Extensions", "4.1")
    assert installed.versions([str(tmp_path)]) == {"typing-extensions": "4.1"}


def test_a_half_installed_environment_is_refused_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = installed.versions()
    del found["mlflow"]
    found["great-expectations"] = "1.0.0"
    monkeypatch.setattr(installed, "versions", lambda: found)
    with pytest.raises(BadRequestError) as refused:
        installed.demand_installed()
    assert str(refused.value) == (
        f"half-installed environment {sys.prefix}: expected great-expectations 1.24.1 (1.0.0 is "
        "installed), mlflow 3.17.2 (missing); run `make setup`"
    )


def test_many_differences_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "versions", dict)
    with pytest.raises(BadRequestError, match=r"and \d\d+ more; run `make setup`") as refused:
        installed.demand_installed()
    assert len(str(refused.value)) < 500


def test_an_interpreter_without_the_packages_says_so_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "tasks.cli", "history"],  # -S: no site-packages
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert done.stderr.startswith("headrace: half-installed environment: expected the module ")
    assert done.stderr.endswith("found none; run `make setup`\n")
