"""Sealed artifacts: manifest, key and content digest (format `manifest/1`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import (
    Json,
    check_format,
    digest_of_json,
    parse_object,
    pretty_json,
)
from tasks.contracts.stages import ArtifactKind, Stage

MANIFEST_NAME = "manifest.json"
FACTS_NAME = "facts.json"
_HEX_64 = re.compile(r"[0-9a-f]{64}")
_PAYLOAD_FOLDER = re.compile(r"payload-[0-9a-f]{16}")
_TERMINATION = re.compile(
    r"sealed (?P<address>[a-z_]+/[0-9a-f]{64}) manifest sha256:(?P<digest>[0-9a-f]{64})"
)


@dataclass(frozen=True, kw_only=True, order=True)
class FileEntry:
    """One payload file: path relative to the payload folder, size in bytes, hex sha256."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        """Refuse paths that leave the payload folder."""
        parts = self.path.split("/")
        if self.path.startswith("/") or "\\" in self.path or {"", ".", ".."} & set(parts):
            message = f"payload path: expected a plain relative path, found {self.path!r}"
            raise BadRequestError(message)


@dataclass(frozen=True, kw_only=True)
class InputReference:
    """An input of a stage: where it is and the digest of what was read."""

    address: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Address:
    """`<kind>/<key>`: the place of an artifact inside any store."""

    kind: ArtifactKind
    key: str

    def __str__(self) -> str:
        """Return `<kind>/<key>`."""
        return f"{self.kind.value}/{self.key}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse `<kind>/<64 hex digits>`."""
        kind, _, key = text.partition("/")
        if kind not in set(ArtifactKind) or not _HEX_64.fullmatch(key):
            message = f"artifact address: expected <kind>/<64 hex digits>, found {text!r}"
            raise BadRequestError(message)
        return cls(kind=ArtifactKind(kind), key=key)


def content_digest(files: Iterable[FileEntry]) -> str:
    """Return the hex sha256 over the sorted (path, size, sha256) lines of the payload."""
    lines = [f"{entry.path}\0{entry.size}\0{entry.sha256}\n" for entry in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def artifact_key(
    stage: Stage, inputs: Mapping[str, InputReference], config: Mapping[str, Json], code: str
) -> str:
    """Return H(stage, content digests of the inputs, resolved configuration, code digest)."""
    return digest_of_json(
        {
            "stage": stage.value,
            "inputs": {name: reference.content for name, reference in inputs.items()},
            "config": dict(config),
            "code": code,
        }
    )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was sealed, from what, by which code; holds no time, host or run id."""

    kind: ArtifactKind
    key: str
    stage: Stage
    inputs: Mapping[str, InputReference]
    config: Mapping[str, Json]
    code: str
    files: tuple[FileEntry, ...]
    content: str

    @property
    def address(self) -> Address:
        """Return where the artifact is."""
        return Address(kind=self.kind, key=self.key)

    @property
    def payload_folder(self) -> str:
        """Return the folder beside the manifest: equal content, equal name."""
        return f"payload-{self.content[:16]}"

    def left_behind(self, path: str) -> str | None:
        """Return the payload folder that `path` lies in, where it is one of another try's.

        A stage whose bytes are not the same each time leaves one when it is killed before its
        seal. The manifest decides: once it is there, nobody will ever read another folder.
        """
        folder, inside = f"{self.address}/", path.removeprefix(f"{self.address}/")
        name, _, rest = inside.partition("/")
        if not path.startswith(folder) or not rest or not _PAYLOAD_FOLDER.fullmatch(name):
            return None
        return None if name == self.payload_folder else f"{folder}{name}"

    @property
    def size(self) -> int:
        """Return the payload's size in bytes."""
        return sum(entry.size for entry in self.files)

    @property
    def reference(self) -> InputReference:
        """Return what another stage's manifest says of this one."""
        return InputReference(address=str(self.address), content=self.content)

    def to_text(self) -> str:
        """Return the bytes of `manifest.json` as text; equal manifests have equal text."""
        return pretty_json(
            {
                "format": "manifest/1",
                "kind": self.kind.value,
                "key": self.key,
                "stage": self.stage.value,
                "inputs": {
                    name: {"address": item.address, "content": item.content}
                    for name, item in self.inputs.items()
                },
                "config": dict(self.config),
                "code": self.code,
                "files": [
                    {"path": entry.path, "size": entry.size, "sha256": entry.sha256}
                    for entry in sorted(self.files)
                ],
                "content": self.content,
            }
        )

    @property
    def digest(self) -> str:
        """Return the hex sha256 of `manifest.json`."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> Manifest:
        """Read a manifest and check it against itself; errors name `where` and the field."""
        record = parse_object(text, where)
        check_format(record, "manifest", 1, where)
        try:
            manifest = cls._from_record(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"{where}: expected a complete manifest/1, found a bad field: {error!r}"
            raise BadRequestError(message) from error
        manifest.demand_consistent(where)
        return manifest

    @classmethod
    def _from_record(cls, record: Mapping[str, Json]) -> Manifest:
        inputs = _typed(record["inputs"], dict)
        files = _typed(record["files"], list)
        return cls(
            kind=ArtifactKind(str(record["kind"])),
            key=_typed(record["key"], str),
            stage=Stage(str(record["stage"])),
            inputs={
                name: InputReference(
                    address=_typed(_typed(item, dict)["address"], str),
                    content=_typed(_typed(item, dict)["content"], str),
                )
                for name, item in inputs.items()
            },
            config=_typed(record["config"], dict),
            code=_typed(record["code"], str),
            files=tuple(_file_entry(_typed(item, dict)) for item in files),
            content=_typed(record["content"], str),
        )

    def demand_consistent(self, where: str) -> None:
        """Refuse a manifest whose digest or key does not follow from its own fields."""
        content = content_digest(self.files)
        if content != self.content:
            message = f"{where}: field content: expected {content} from files, found {self.content}"
            raise BadRequestError(message)
        key = artifact_key(self.stage, self.inputs, self.config, self.code)
        if key != self.key:
            message = (
                f"{where}: field key: expected {key} from stage, inputs, config and code, "
                f"found {self.key}"
            )
            raise BadRequestError(message)


_T = TypeVar("_T")


def _typed(value: object, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        message = f"expected {kind.__name__}, found {value!r:.80}"
        raise TypeError(message)
    return value


def _file_entry(item: Mapping[str, Json]) -> FileEntry:
    return FileEntry(
        path=_typed(item["path"], str),
        size=_typed(item["size"], int),
        sha256=_typed(item["sha256"], str),
    )


def termination_sentence(manifest: Manifest, sentence: str) -> str:
    """Return the last line of a pod: the evidence first, then a sentence for people."""
    return f"sealed {manifest.address} manifest sha256:{manifest.digest} | {sentence}"


@dataclass(frozen=True, kw_only=True)
class SealedEvidence:
    """What a termination message claims to have sealed."""

    address: Address
    manifest_digest: str


def parse_termination(text: str) -> SealedEvidence | None:
    """Return the claim in a termination message, or None where there is none."""
    found = _TERMINATION.search(text)
    if found is None:
        return None
    return SealedEvidence(address=Address.parse(found["address"]), manifest_digest=found["digest"])
