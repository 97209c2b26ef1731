"""Reading sealed artifacts from Airflow: manifests and small JSON payloads, never data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tasks.contracts.artifacts import MANIFEST_NAME, Address, Manifest, SealedEvidence
from tasks.contracts.credentials import without_given_credentials
from tasks.contracts.requests import ReleaseRequest
from tasks.contracts.stages import STAGE_FACTS, Stage
from tasks.contracts.store_urls import fsspec_options


class NotSealedError(Exception):
    """A stage ended well, but what it claims to have sealed is not there: no green task."""


@dataclass(frozen=True, kw_only=True)
class SealedStore:
    """The artifact store at an fsspec URL, opened as the stages open it (ADR 11)."""

    url: str

    def manifest(self, address: Address) -> Manifest:
        """Return the manifest; an artifact without one does not exist."""
        where = f"{address}/{MANIFEST_NAME}"
        try:
            text = self._read(where)
        except FileNotFoundError as error:
            message = f"{self.url}: expected a sealed {address}, found no {MANIFEST_NAME}"
            raise NotSealedError(message) from error
        return Manifest.parse(text, where)

    def payload(self, address: Address, name: str) -> bytes:
        """Return one listed file of an artifact's payload."""
        manifest = self.manifest(address)
        if name not in {entry.path for entry in manifest.files}:
            message = f"{self.url}/{address}: expected a file {name}, found none of that name"
            raise NotSealedError(message)
        return self._read(f"{address}/{manifest.payload_folder}/{name}")

    def release_request(self, address: str) -> ReleaseRequest:
        """Return the pinned request of a release."""
        return ReleaseRequest.parse(self.payload(Address.parse(address), "request.json"), address)

    def check(self, evidence: SealedEvidence | None, stage: Stage) -> Manifest:
        """Compare what a stage claims with what lies in the store: kind, key, digest, sizes."""
        if evidence is None:
            message = (
                f"{stage.value}: expected 'sealed <address> manifest sha256:<digest>' in its last "
                "sentence, found none: it ended without sealed work"
            )
            raise NotSealedError(message)
        manifest = self.manifest(evidence.address)
        _agree(f"{evidence.address}: manifest digest", evidence.manifest_digest, manifest.digest)
        _agree(f"{evidence.address}: address", str(evidence.address), str(manifest.address))
        _agree(f"{evidence.address}: stage", stage.value, manifest.stage.value)
        expected_kind = STAGE_FACTS[stage].produces.value
        _agree(f"{evidence.address}: kind", expected_kind, manifest.kind.value)
        self._check_sizes(manifest)
        return manifest

    def _check_sizes(self, manifest: Manifest) -> None:
        folder = f"{manifest.address}/{manifest.payload_folder}"
        for entry in manifest.files:
            where = f"{folder}/{entry.path}"
            try:
                found = self._size(where)
            except FileNotFoundError as error:
                message = f"{where}: expected {entry.size} bytes, found no file"
                raise NotSealedError(message) from error
            _agree(f"{where}: bytes", entry.size, found)

    def _read(self, below: str) -> bytes:
        with self._errors(below):
            system, root = self._opened()
            return bytes(system.cat_file(f"{root}/{below}"))

    def _size(self, below: str) -> int:
        with self._errors(below):
            system, root = self._opened()
            return int(system.size(f"{root}/{below}"))

    def _opened(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs  # noqa: PLC0415  wanted at run time, not at each parse

        system, root = url_to_fs(self.url, **fsspec_options(self.url))
        return system, str(root).rstrip("/")

    @contextmanager
    def _errors(self, below: str) -> Iterator[None]:
        """Pass on what is absent; say all else in one sentence, which Airflow may try again."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # noqa: BLE001  whatever any scheme raises
            said = without_given_credentials(str(error) or type(error).__name__)
            message = f"store {self.url}: could not read {below}: {said:.500}"
            raise OSError(message) from None  # a server's own words may hold a credential


def _agree(where: str, expected: object, found: object) -> None:
    if expected != found:
        message = f"{where}: expected {expected}, found {found}"
        raise NotSealedError(message)
