"""The folder that a slot's server watches: one sub-folder per version, published by rename."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import check_format, parse_object
from tasks.serving.base_path import parse_version


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where one colour's server listens and which folder it watches."""

    colour: str
    host: str
    grpc: int
    rest: int
    directory: Path

    @property
    def grpc_address(self) -> str:
        """Return host:port for gRPC."""
        return f"{self.host}:{self.grpc}"

    @property
    def rest_url(self) -> str:
        """Return the base URL for REST."""
        return f"http://{self.host}:{self.rest}"


def read_slots(path: Path) -> dict[str, Slot]:
    """Read `slots.json` (`slots/1`) by colour; errors name the file."""
    return parse_slots(path.read_bytes(), str(path))


def parse_slots(text: str | bytes, where: str) -> dict[str, Slot]:
    """Read a `slots/1` by colour; errors name `where`."""
    record = parse_object(text, where)
    check_format(record, "slots", 1, where)
    slots: Any = record.get("slots")
    try:
        return {
            colour: Slot(
                colour=colour,
                host=str(slot.get("host", "127.0.0.1")),
                grpc=int(slot["grpc"]),
                rest=int(slot["rest"]),
                directory=Path(slot["directory"]),
            )
            for colour, slot in slots.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{where}: expected colours with grpc, rest and directory, found: {error!r}"
        raise BadRequestError(message) from error


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below `folder` by its relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def publish(saved_model: Path, directory: Path, version: int) -> bool:
    """Make `directory/<version>` hold exactly `saved_model`; False if it already did.

    The number appears by rename, with all its files. A number that holds something else is
    refused: a server never reloads a version that it has seen.
    """
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / str(version)
    if target.exists():
        _demand_equal(digests(saved_model), digests(target), target)
        return False
    half = directory / f"{version}.tmp"
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(saved_model, half, copy_function=shutil.copyfile)
    half.rename(target)
    return True


def _demand_equal(wanted: Mapping[str, str], found: Mapping[str, str], target: Path) -> None:
    different = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if different:
        message = (
            f"{target}: expected the bundle's files, found others ({', '.join(different[:3])}); "
            "a version number is never used twice: roll this release back and trigger a new one"
        )
        raise BadRequestError(message)


def withdraw(directory: Path, version: int) -> None:
    """Take a version away that must not be served; the folder stays."""
    target, half = directory / str(version), directory / f"{version}.tmp"
    if target.exists():
        shutil.rmtree(half, ignore_errors=True)
        target.rename(half)
    shutil.rmtree(half, ignore_errors=True)


def remove_older(directory: Path, version: int) -> list[int]:
    """Remove the versions before `version` of a slot, once its server has taken that up.

    A larger number is of a release that got the slot since: who comes late must not touch it.
    """
    older = {
        number
        for path in directory.iterdir()
        if (number := parse_version(path.name)) is not None and number < version
    }
    for number in sorted(older):
        withdraw(directory, number)
    return sorted(older)
