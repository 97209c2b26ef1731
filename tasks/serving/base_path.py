"""Which versions the file system offers (file_system_storage_path_source.cc)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)[ \t\n\v\f\r]*")
_INT64 = 1 << 63


@dataclass(frozen=True, kw_only=True)
class LatestVersions:
    """Serve the newest `count` versions."""

    count: int = 1


@dataclass(frozen=True, kw_only=True)
class AllVersions:
    """Serve every version there is."""


@dataclass(frozen=True, kw_only=True)
class SpecificVersions:
    """Serve these versions, as far as they are there."""

    versions: frozenset[int]


VersionChoice = LatestVersions | AllVersions | SpecificVersions


@dataclass(frozen=True, kw_only=True)
class WatchedModel:
    """A model name, the folder with its versions, and which of them to serve."""

    name: str
    base_path: Path
    choice: VersionChoice = field(default_factory=LatestVersions)


class BasePathMissingError(Exception):
    """A base path is not there: nothing at all may be concluded from this round."""


def parse_version(name: str) -> int | None:
    """Return the int64 that a folder's name says (leading zeros allowed), or None."""
    match = _NUMBER.fullmatch(name)
    if match is None:
        return None
    number = int(match[1])
    return number if -_INT64 <= number < _INT64 else None


def found_versions(base_path: Path) -> dict[int, Path]:
    """Return version -> folder; of `1` and `001` the last in sort order wins."""
    try:
        names = sorted(path.name for path in base_path.iterdir())
    except OSError as error:
        message = f"Could not find base path {base_path} with error {error}"
        raise BasePathMissingError(message) from error
    numbered = ((parse_version(name), base_path / name) for name in names)
    return {version: path for version, path in numbered if version is not None}


def wanted_versions(model: WatchedModel) -> dict[int, Path]:
    """Return the versions that this model should serve now."""
    found = found_versions(model.base_path)
    match model.choice:
        case AllVersions():
            return found
        case SpecificVersions(versions=versions):
            return {version: found[version] for version in sorted(versions) if version in found}
        case LatestVersions(count=count):
            return {version: found[version] for version in sorted(found)[-max(count, 1) :]}


def poll(models: Iterable[WatchedModel]) -> Mapping[str, dict[int, Path]]:
    """Return the wanted versions of every model; one missing base path spoils the whole round."""
    return {model.name: wanted_versions(model) for model in models}
