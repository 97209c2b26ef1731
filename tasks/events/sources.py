"""Where raw events lie, which bytes they are, and how they get onto this machine."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import fsspec

from tasks.contracts.credentials import without_given_credentials
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json

DATA_VARIABLE = "HEADRACE_DATA"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file: a name that is equal on every machine, and a local path or fsspec URL."""

    name: str
    url: str


@dataclass(frozen=True, kw_only=True)
class SourceBytes:
    """What a source held when it was read."""

    name: str
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Json]:
        """Return it as a record."""
        return asdict(self)


def package_source(package: str, file: str, name: str) -> Source:
    """Find a file inside an installed package without importing the package."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        path = Path(folder, file)
        if path.is_file():
            return Source(name=name, url=str(path))
    message = (
        f"data set file {file}: expected it inside the Python package {package}, found "
        f"{'no such file' if spec else 'no such package'}; next step: install the extra 'data'"
    )
    raise BadRequestError(message)


def data_source(environ: Mapping[str, str], files: Sequence[str], how_to_get: str) -> Source:
    """Find the first of `files` below $HEADRACE_DATA."""
    folder = environ.get(DATA_VARIABLE)
    for file in files:
        if folder and Path(folder, file).is_file():
            return Source(name=PurePosixPath(file).name, url=str(Path(folder, file)))
    found = f"no such file below {folder}" if folder else f"{DATA_VARIABLE} not set"
    message = (
        f"data set: expected ${DATA_VARIABLE}/{files[0]}, found {found}; next step: set "
        f"{DATA_VARIABLE} to the folder of data sets; {how_to_get}"
    )
    raise BadRequestError(message)


def url_sources(url: str, what: str) -> tuple[Source, ...]:
    """Return the files that a local path, fsspec URL or glob names, sorted."""
    try:
        system, path = fsspec.core.url_to_fs(url)
        found = system.glob(path) if "*" in path else [path] if system.isfile(path) else []
    except (ImportError, OSError, ValueError) as error:
        said = without_given_credentials(str(error))
        message = f"{what}: expected a readable path or fsspec URL, found {url!r}: {said}"
        raise BadRequestError(message) from error
    if not found:
        message = (
            f"{what}: expected a file at {url!r}, found none; next step: name one file, or many "
            "by a pattern such as s3://bucket/events/*.parquet"
        )
        raise BadRequestError(message)
    return tuple(
        Source(name=PurePosixPath(file).name, url=system.unstrip_protocol(file))
        for file in sorted(found)
    )


def digest(source: Source) -> SourceBytes:
    """Read a source once and return the number and sha256 of its bytes."""
    return _copy(source, None)


def fetch(source: Source, folder: Path) -> tuple[Path, SourceBytes]:
    """Return a local path of the source, copied into `folder` unless it is local, and its bytes."""
    system, path = fsspec.core.url_to_fs(source.url)
    if "file" in _protocols(system):
        return Path(path), digest(source)
    folder.mkdir(parents=True, exist_ok=True)
    # Files of one pattern may share a name across folders.
    prefix = hashlib.sha256(source.url.encode()).hexdigest()[:12]
    target = folder / f"{prefix}-{source.name}"
    return target, _copy(source, target)


def _copy(source: Source, target: Path | None) -> SourceBytes:
    hasher, size = hashlib.sha256(), 0
    sink = target.open("wb") if target else None
    try:
        with fsspec.open(source.url, "rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                hasher.update(chunk)
                size += len(chunk)
                if sink:
                    sink.write(chunk)
    finally:
        if sink:
            sink.close()
    return SourceBytes(name=source.name, bytes=size, sha256=hasher.hexdigest())


def _protocols(system: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
