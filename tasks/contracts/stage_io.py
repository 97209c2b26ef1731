"""What a stage is given and what it gives back; the JSON request of a pod (`stage_request/1`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from tasks.contracts.artifacts import Address, Manifest
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, check_format, parse_object, pretty_json
from tasks.contracts.ranks import ALONE, Ranks
from tasks.contracts.record_store import RecordStore
from tasks.contracts.requests import ReleaseRequest
from tasks.contracts.stages import ArtifactKind, Stage

SayProgress = Callable[[str, float | None], None]
CHECKPOINT_SECONDS = 30.0  # at most this much work is lost to a kill, and a batch
CHECKPOINT_VARIABLE = "HEADRACE_CHECKPOINT_SECONDS"


def checkpoint_seconds(environment: Mapping[str, str]) -> float:
    """Return how many seconds apart a stage writes checkpoints: CHECKPOINT_VARIABLE, or CHECKPOINT_SECONDS.

    Raises BadRequestError for what is no number of 0 (after each batch) or more.
    """
    text = environment.get(CHECKPOINT_VARIABLE) or str(CHECKPOINT_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        message = (
            f"{CHECKPOINT_VARIABLE}: expected seconds, 0 or more, found {text!r:.60}; next step: "
            f"set it to a number, or leave it out for {CHECKPOINT_SECONDS:g}"
        )
        raise BadRequestError(message)
    return seconds


@dataclass(frozen=True, kw_only=True)
class StageRequest:
    """One call of `python -m tasks <stage>`: what to read, which gates passed, settings."""

    stage: Stage
    store_url: str
    release: str | None = None  # address of the release request; None for request_release
    reads: Mapping[str, str] = field(default_factory=dict)  # input name -> artifact address
    gates: Mapping[str, str] = field(default_factory=dict)  # input name -> gate report address
    settings: Mapping[str, Json] = field(default_factory=dict)

    def to_text(self) -> str:
        """Return the request as JSON text."""
        return pretty_json(
            {
                "format": "stage_request/1",
                "stage": self.stage.value,
                "store_url": self.store_url,
                "release": self.release,
                "reads": dict(self.reads),
                "gates": dict(self.gates),
                "settings": dict(self.settings),
            }
        )

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> StageRequest:
        """Read a stage request; errors name `where` and the field."""
        record = parse_object(text, where)
        check_format(record, "stage_request", 1, where)
        known = {"format", "stage", "store_url", "release", "reads", "gates", "settings"}
        unknown = sorted(set(record) - known)
        stage, store_url = record.get("stage"), record.get("store_url")
        if unknown or stage not in set(Stage) or not isinstance(store_url, str):
            message = (
                f"{where}: expected fields {sorted(known)} with a known stage and a store_url, "
                f"found stage={stage!r}, store_url={store_url!r}, unknown fields {unknown}"
            )
            raise BadRequestError(message)
        release = record.get("release")
        return cls(
            stage=Stage(str(stage)),
            store_url=store_url,
            release=None if release is None else str(Address.parse(str(release))),
            reads=_addresses(record.get("reads") or {}, f"{where}: reads"),
            gates=_addresses(record.get("gates") or {}, f"{where}: gates"),
            settings=cast("Mapping[str, Json]", record.get("settings") or {}),
        )


def _addresses(value: Json, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        message = f"{where}: expected an object of addresses, found {value!r:.80}"
        raise BadRequestError(message)
    return {name: str(Address.parse(str(text))) for name, text in value.items() if text}


@dataclass(frozen=True, kw_only=True)
class StageInput:
    """One verified input: `path` is a read-only local folder with the payload."""

    address: str
    manifest: Manifest
    path: Path


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """The whole world of a stage: it reads no clock, no registry and no environment."""

    inputs: Mapping[str, StageInput]
    out: Path  # write the payload here; sealed after `run` returns
    work: Path  # survives a kill: checkpoints; equal for equal keys
    progress: SayProgress
    store_url: str
    release: ReleaseRequest | None = None
    release_address: str | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)
    state_dir: Path | None = None
    records: RecordStore | None = None  # of rollouts; None: files below the state folder
    slot_host: str | None = None  # name of a slot's Service; None: slots.json below it
    config: Mapping[str, Json] = field(default_factory=dict)  # what `configure` resolved
    ranks: Ranks = ALONE  # the processes that run the stage together
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    def the_release(self) -> ReleaseRequest:
        """Return the release request, which every stage but the first has."""
        if self.release is None:
            message = "stage: expected the address of a release request, found none"
            raise BadRequestError(message)
        return self.release

    def the_state_dir(self) -> Path:
        """Return the folder of state records, which rollout stages need."""
        if self.state_dir is None:
            message = "stage: expected HEADRACE_STATE to name the state folder, found none"
            raise BadRequestError(message)
        return self.state_dir


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stage ended: a sentence for people, facts outside the digest, refused or not."""

    sentence: str
    facts: Mapping[str, Json] = field(default_factory=dict)
    refused: bool = False


class StageModule(Protocol):
    """What every module `tasks/stages/<stage>.py` offers."""

    READS: Mapping[str, ArtifactKind]  # a name that ends in "?" is optional
    GATED: frozenset[str]  # inputs (without "?") that need a passing gate report
    PRODUCES: ArtifactKind

    def configure(self, context: StageContext) -> dict[str, Json]:
        """Return the fully resolved configuration: part of the key."""
        ...

    def run(self, context: StageContext) -> Outcome:
        """Write the payload below `context.out`."""
        ...


class RankedStageModule(StageModule, Protocol):
    """A stage that several processes run together: the first runs and seals it, the others assist."""

    def joined_ranks(self) -> AbstractContextManager[Ranks]:
        """Meet the other ranks, and part from them at the end."""
        ...

    def assist(self, context: StageContext) -> None:
        """Do this rank's share of `run`; `context.out` and `context.work` are of no account."""
        ...
