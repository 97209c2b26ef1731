"""Reading sealed artifacts from Airflow: manifests and small JSON payloads, never data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import fsspec

from tasks.contracts.artifacts import MANIFEST_NAME, Address, Manifest, SealedEvidence
from tasks.contracts.requests import ReleaseRequest
from tasks.contracts.stages import STAGE_FACTS, Stage

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath


class NotSealedError(Exception):
    """A stage ended well, but what it claims to have sealed is not there: no green task."""


@dataclass(frozen=True, kw_only=True)
class SealedStore:
    """The artifact store at an fsspec URL, read through Airflow's ObjectStoragePath."""

    url: str

    def manifest(self, address: Address) -> Manifest:
        """Return the manifest; an artifact without one does not exist."""
        where = f"{address}/{MANIFEST_NAME}"
        try:
            text = self._path(where).read_bytes()
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
        return bytes(self._path(f"{address}/{manifest.payload_folder}/{name}").read_bytes())

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
                found = self._path(where).stat().st_size
            except FileNotFoundError as error:
                message = f"{where}: expected {entry.size} bytes, found no file"
                raise NotSealedError(message) from error
            _agree(f"{where}: bytes", entry.size, found)

    def _path(self, below: str) -> ObjectStoragePath:
        from airflow.sdk import ObjectStoragePath  # noqa: PLC0415  heavy, and wanted at run time

        _attach_where_no_provider_does(self.url)
        return ObjectStoragePath(f"{self.url}/{below}")


def _attach_where_no_provider_does(url: str) -> None:
    """Give Airflow fsspec's own file system: it knows `file` and those of installed providers only."""
    from airflow.sdk.io import attach, has_fs  # noqa: PLC0415  heavy, and wanted at run time

    scheme = urlsplit(url).scheme
    if scheme != "file" and not has_fs(scheme):
        attach(scheme, fs=fsspec.filesystem(scheme))


def _agree(where: str, expected: object, found: object) -> None:
    if expected != found:
        message = f"{where}: expected {expected}, found {found}"
        raise NotSealedError(message)
