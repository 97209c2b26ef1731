"""Sealed artifacts in an object store: payload first, `manifest.json` last and only once."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.adapters.scratch_space import scratch_folder
from tasks.contracts.artifacts import (
    FACTS_NAME,
    MANIFEST_NAME,
    Address,
    FileEntry,
    InputReference,
    Manifest,
    artifact_key,
    content_digest,
)
from tasks.contracts.errors import BadRequestError, CorruptArtifactError, HeadraceError
from tasks.contracts.facts import facts_text
from tasks.contracts.json_types import Json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.adapters.object_store import ObjectStore
    from tasks.contracts.stages import ArtifactKind, Stage

READ_BYTES = 1024 * 1024
LINK = "a link or another special file"
ADVICE = (
    f"restore it from a copy, or remove the artifact's {MANIFEST_NAME} and run its stage again, "
    "so that it is made again"
)
MANIFEST_ADVICE = (
    "restore it from a copy, or remove it and run its stage again, so that the artifact is made "
    "again"
)
STRAY_ADVICE = "move it away"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that the key of an artifact is made of."""

    kind: ArtifactKind
    stage: Stage
    inputs: Mapping[str, InputReference]
    config: Mapping[str, Json]
    code: str

    @property
    def address(self) -> Address:
        """Return where the artifact of this recipe is, made or not."""
        key = artifact_key(self.stage, self.inputs, self.config, self.code)
        return Address(kind=self.kind, key=key)


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as reader:
        while piece := reader.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def payload_entries(folder: Path) -> tuple[FileEntry, ...]:
    """Return an entry per file below `folder`, sorted by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(
        FileEntry(
            path=path.relative_to(folder).as_posix(),
            size=path.stat().st_size,
            sha256=file_sha256(path),
        )
        for path in files
    )


class ArtifactStore:
    """Find, fetch and seal artifacts; `cache` keeps verified local copies of remote payloads."""

    def __init__(self, objects: ObjectStore, cache: Path) -> None:
        """Use `objects` for everything that is kept."""
        self.objects = objects
        self.cache = cache

    def find(self, address: Address) -> Manifest | None:
        """Return the manifest, or None while the artifact does not exist."""
        where = f"{address}/{MANIFEST_NAME}"
        try:
            text = self.objects.read(where)
        except FileNotFoundError:
            return None
        try:
            manifest = Manifest.parse(text, where)
        except BadRequestError as error:
            raise CorruptArtifactError(f"{error}; {MANIFEST_ADVICE}") from error
        if manifest.address != address:
            found = f"expected address {address}, found {manifest.address}"
            raise CorruptArtifactError(f"{where}: {found}; {MANIFEST_ADVICE}")
        return manifest

    def read_payload(self, address: Address, name: str) -> bytes | None:
        """Return one small payload file, unchecked; None where the artifact does not exist."""
        found = self.find(address)
        if found is None:
            return None
        return self.objects.read(f"{address}/{found.payload_folder}/{name}")

    def manifest(self, address: Address) -> Manifest:
        """Return the manifest; an absent artifact is a bad request."""
        found = self.find(address)
        if found is None:
            message = (
                f"{self.objects.url}: expected a sealed {address}, found no {MANIFEST_NAME}; "
                "run the stage that makes it first"
            )
            raise BadRequestError(message)
        return found

    def mark_used(self, address: Address) -> Manifest | None:
        """Make a sealed artifact young again and return its manifest; None where there is none.

        `headrace gc` removes a manifest only after it saw that the artifact is old: who marks it
        first and then finds the manifest may go on, who finds none makes the artifact anew.
        """
        if self.find(address) is None:
            return None
        with suppress(HeadraceError, OSError):  # as from a read-only copy
            self.objects.touch(f"{address}/{FACTS_NAME}")
        return self.find(address)

    def fetch(self, manifest: Manifest) -> Path:
        """Return a local folder with the payload, every byte checked against the manifest."""
        root = self.objects.local_root
        if root is not None:
            folder = root / str(manifest.address) / manifest.payload_folder
            verify_payload(folder, manifest)
            return folder
        folder = self.cache / manifest.content
        if folder.exists():
            try:
                verify_payload(folder, manifest)
            except CorruptArtifactError:  # the copy, not the artifact: it may be had again
                shutil.rmtree(folder, ignore_errors=True)
            else:
                with suppress(OSError):  # `headrace gc` removes copies that nobody used for long
                    os.utime(folder)
                return folder
        self._download(manifest, folder)
        verify_payload(folder, manifest)
        return folder

    def check(self, manifest: Manifest) -> None:
        """Compare the stored payload itself, never a local copy; the first difference is named."""
        root = self.objects.local_root
        if root is not None:
            folder = root / str(manifest.address)
            _demand_folder(folder, manifest)
            verify_payload(folder / manifest.payload_folder, manifest)
            return
        prefix = f"{manifest.address}/{manifest.payload_folder}/"
        present = {path.removeprefix(prefix) for path in self.objects.list(prefix.rstrip("/"))}
        _demand_only_listed(present, manifest)
        for entry in sorted(manifest.files):
            self._check_stored(prefix, entry, manifest)

    def _check_stored(self, prefix: str, entry: FileEntry, manifest: Manifest) -> None:
        where = f"{manifest.address}: file {entry.path}"
        try:
            size, digest = self.objects.digest(f"{prefix}{entry.path}")
        except FileNotFoundError:
            message = f"{where}: expected {entry.size} bytes, found no file; {ADVICE}"
            raise CorruptArtifactError(message) from None
        _demand_equal(where, entry, size, digest)

    def _download(self, manifest: Manifest, folder: Path) -> None:
        with scratch_folder(self.cache) as scratch:
            payload = scratch / "payload"  # with the rights of any new folder: others may read it
            payload.mkdir()
            for entry in manifest.files:
                self._download_file(manifest, entry, payload)
            with suppress(OSError):  # another reader was first with the same bytes
                payload.rename(folder)

    def _download_file(self, manifest: Manifest, entry: FileEntry, folder: Path) -> None:
        stored = f"{manifest.address}/{manifest.payload_folder}/{entry.path}"
        try:
            self.objects.download(stored, folder / entry.path, entry.size)
        except FileNotFoundError:
            where = f"{manifest.address}: file {entry.path}"
            message = f"{where}: expected {entry.size} bytes, found no file; {ADVICE}"
            raise CorruptArtifactError(message) from None

    def seal(self, recipe: Recipe, folder: Path, facts: Mapping[str, Json]) -> Manifest:
        """Publish `folder` under the recipe's key; who loses a race gets the winner's manifest."""
        address = recipe.address
        files = payload_entries(folder)
        manifest = Manifest(
            kind=recipe.kind,
            key=address.key,
            stage=recipe.stage,
            inputs=dict(recipe.inputs),
            config=dict(recipe.config),
            code=recipe.code,
            files=files,
            content=content_digest(files),
        )
        for entry in files:
            target = f"{address}/{manifest.payload_folder}/{entry.path}"
            self.objects.upload(folder / entry.path, target)
        self.objects.replace(f"{address}/{FACTS_NAME}", facts_text(facts).encode())
        if self.objects.put_if_absent(f"{address}/{MANIFEST_NAME}", manifest.to_text().encode()):
            return manifest
        winner = self.manifest(address)
        if winner.content != manifest.content:
            names = [entry.path for entry in files]
            self.objects.remove_files(f"{address}/{manifest.payload_folder}", names)
        return winner


def verify_payload(folder: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest; the first difference is named. Links count as none."""
    _demand_folder(folder, manifest)
    modes = {
        path.relative_to(folder).as_posix(): path.lstat().st_mode for path in folder.rglob("*")
    }
    present = {path for path, mode in modes.items() if not stat.S_ISDIR(mode)}
    _demand_only_listed(present, manifest)
    for path in sorted(present):
        if not stat.S_ISREG(modes[path]):
            where = f"{manifest.address}: file {path}"
            message = f"{where}: expected a plain file, found {LINK}; {STRAY_ADVICE}, then {ADVICE}"
            raise CorruptArtifactError(message)
    for entry in sorted(manifest.files):
        _verify_file(folder / entry.path, entry, manifest)


def _demand_folder(folder: Path, manifest: Manifest) -> None:
    if folder.is_symlink():
        where = f"{manifest.address}: expected the folder {folder.name} itself"
        message = f"{where}, found a link; {STRAY_ADVICE}, then {ADVICE}"
        raise CorruptArtifactError(message)


def _verify_file(path: Path, entry: FileEntry, manifest: Manifest) -> None:
    where = f"{manifest.address}: file {entry.path}"
    if not path.is_file():
        message = f"{where}: expected {entry.size} bytes, found no file; {ADVICE}"
        raise CorruptArtifactError(message)
    size = path.stat().st_size
    digest = file_sha256(path) if size == entry.size else ""
    _demand_equal(where, entry, size, digest)


def _demand_only_listed(present: set[str], manifest: Manifest) -> None:
    for path in sorted(present - {entry.path for entry in manifest.files}):
        found = f"expected only the files of the manifest, found {path}"
        raise CorruptArtifactError(f"{manifest.address}: {found}; {STRAY_ADVICE}")


def _demand_equal(where: str, entry: FileEntry, size: int, digest: str) -> None:
    if size != entry.size:
        message = f"{where}: expected {entry.size} bytes, found {size}; {ADVICE}"
        raise CorruptArtifactError(message)
    if digest != entry.sha256:
        message = f"{where}: expected sha256 {entry.sha256}, found {digest}; {ADVICE}"
        raise CorruptArtifactError(message)
