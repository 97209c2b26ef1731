"""Is the environment what the locks say? `python -m tasks.cli.installed` exits 1 where it is not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from typing import TYPE_CHECKING

from tasks.cli.home import CHECKOUT
from tasks.contracts.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

LOCKS = CHECKOUT / "requirements"
RUN_BY = ("airflow", "data", "torch", "tensorflow", "rollout")  # the locks that the stack needs
NEEDED_MODULES = ("airflow", "mlflow", "envoy", "tensorflow", "torch", "great_expectations")
MAX_NAMED = 4
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^\]]*\])?==(?P<version>[^\s;]+)")


def pinned(folder: Path = LOCKS) -> dict[str, str]:
    """Return name -> version of every package that the locks name."""
    found = {}
    for name in RUN_BY:
        for line in (folder / f"{name}.lock").read_text(encoding="utf-8").splitlines():
            pin = _PIN.match(line)
            if pin is not None:
                found[_canonical(pin["name"])] = pin["version"]
    return found


def versions(paths: Iterable[str] | None = None) -> dict[str, str]:
    """Return name -> version of what is installed."""
    where = sys.path if paths is None else list(paths)
    return {
        _canonical(one.metadata["Name"]): one.version
        for one in importlib.metadata.distributions(path=where)
        if one.metadata["Name"]
    }


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return in words what is missing or has another version; a local part (+cpu) is no other."""
    return [
        f"{name} {version} ({found[name]} is installed)"
        if name in found
        else f"{name} {version} (missing)"
        for name, version in sorted(wanted.items())
        if found.get(name, "").partition("+")[0] != version.partition("+")[0]
    ]


def demand_installed() -> None:
    """Refuse a half-installed environment before anything is started."""
    if not (CHECKOUT / "dags").is_dir() or not LOCKS.is_dir():
        message = f"{CHECKOUT}: expected dags/ beside tasks/, found none; run from a checkout"
        raise BadRequestError(message)
    wrong = differences(pinned(), versions())
    wrong += [f"the module {name} (missing)" for name in NEEDED_MODULES if not _is_there(name)]
    if wrong:
        more = f" and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
        message = (
            f"half-installed environment {sys.prefix}: expected {', '.join(wrong[:MAX_NAMED])}"
            f"{more}; run `make setup`"
        )
        raise BadRequestError(message)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Say what is wrong with this environment."""
    try:
        demand_installed()
    except BadRequestError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
