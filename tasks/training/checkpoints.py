"""Atomic checkpoints by torch.distributed.checkpoint: a killed fit goes on after its last one, with the same result.

A checkpoint is a folder `checkpoint-N`: torch's files hold the tensors, `checkpoint.json` the rest and the digest of
every file. It is written under another name and renamed once it is whole; only then its predecessor is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import check_format
from tasks.training.fit_identity import NEXT_STEP, FitIdentity

FORMAT, NEWEST_FORMAT = "checkpoint", 2
RECORD = "checkpoint.json"
EARLIER = "checkpoint.pt"  # what Headrace wrote before
_NAME = re.compile(r"checkpoint-(\d+)")
_TENSOR = "$tensor"  # in the record: a tensor of this name stands here

State = dict[str, Any]  # nested, with names as keys: tensors, and what JSON can say
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a killed fit left."""

    state: State  # tensors on the CPU
    identity: FitIdentity  # of the fit that goes on from it


def save_checkpoint(folder: Path, state: State, identity: FitIdentity, *, ranks: int = 1) -> None:
    """Write the checkpoint beside the last one, then put it in its place; one process does so for all `ranks`."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter  # noqa: PLC0415  takes 1 s
    from torch.distributed.checkpoint.state_dict_saver import save  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    earlier = _checkpoints(folder)
    number = max(earlier, default=0) + 1
    scratch = folder / f".checkpoint-{number}"
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed process
    tensors: dict[str, Tensor] = {}
    rest = _without_tensors(state, "state", tensors)
    _alone(lambda: save(tensors, storage_writer=FileSystemWriter(scratch), no_dist=True))
    record = {
        "format": f"{FORMAT}/{NEWEST_FORMAT}",
        "ranks": ranks,
        "fit": identity.record(),
        "files": _digests(scratch),
        "state": rest,
    }
    with (scratch / RECORD).open("w", encoding="utf-8") as writer:
        json.dump(record, writer)
        writer.flush()
        os.fsync(writer.fileno())
    _sync(scratch)
    scratch.rename(folder / f"checkpoint-{number}")
    _sync(folder)
    for path in earlier.values():
        shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(
    folder: Path, identity: FitIdentity, say: Say, *, ranks: int = 1
) -> Checkpoint | None:
    """Return the last whole checkpoint, or None; `say` hears of damaged ones.

    Raises BadRequestError for one of another fit, of another number of ranks or of another format.
    """
    found = _checkpoints(folder)
    for number in sorted(found, reverse=True):
        record = _record(found[number])
        if record is None:
            say(f"{found[number].name} is damaged: it is not used")
            continue
        if record["ranks"] != ranks:
            message = (
                f"checkpoint {found[number]}: expected one of {ranks} ranks, found one of "
                f"{record['ranks']}: go on with as many ranks as began, or remove it to begin anew"
            )
            raise BadRequestError(message)
        _demand_identity(record, found[number])
        identity.demand_same(record["fit"], found[number])
        state: State = _with_tensors(record["state"], _tensors(found[number]))
        return Checkpoint(state=state, identity=identity.after(record["fit"]))
    if (folder / EARLIER).exists():
        message = (
            f"checkpoint {folder / EARLIER}: expected folders {FORMAT}/{NEWEST_FORMAT}, found a file of an "
            "earlier Headrace: remove it, training begins anew and ends with the same result"
        )
        raise BadRequestError(message)
    return None


def _demand_identity(record: dict[str, Any], where: Path) -> None:
    if "fit" not in record:
        message = (
            f"checkpoint {where}: expected {FORMAT}/{NEWEST_FORMAT}, which says of what fit it is, found "
            f"{record['format']} of an earlier Headrace; next step: {NEXT_STEP}"
        )
        raise BadRequestError(message)


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """Return an optimizer's state with names as keys, as a checkpoint takes it."""
    found = optimizer.state_dict()
    moments = {str(place): one for place, one in found["state"].items()}
    return {"state": moments, "param_groups": found["param_groups"]}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Put back what `optimizer_state` returned."""
    moments = {int(place): one for place, one in state["state"].items()}
    optimizer.load_state_dict({**state, "state": moments})


def _checkpoints(folder: Path) -> dict[int, Path]:
    """Return the folders by number, damaged ones too; what has another name is not ours."""
    named = {path: _NAME.fullmatch(path.name) for path in folder.glob("checkpoint-*")}
    return {int(name[1]): path for path, name in named.items() if name and path.is_dir()}


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != RECORD:
            with path.open("rb") as reader:
                found[path.name] = hashlib.file_digest(reader, "sha256").hexdigest()
    return found


def _record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a whole checkpoint; None where a file lacks, is too much or differs."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    check_format(record, FORMAT, NEWEST_FORMAT, f"checkpoint {folder}")
    return record if record.get("files") == _digests(folder) else None


def _tensors(folder: Path) -> dict[str, Tensor]:
    from torch.distributed.checkpoint.filesystem import FileSystemReader  # noqa: PLC0415  takes 1 s
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata  # noqa: PLC0415
    from torch.distributed.checkpoint.state_dict_loader import load  # noqa: PLC0415

    reader = FileSystemReader(folder)
    listed = reader.read_metadata().state_dict_metadata
    found = {
        name: torch.empty(one.size, dtype=one.properties.dtype)
        for name, one in listed.items()
        if isinstance(one, TensorStorageMetadata)
    }
    _alone(lambda: load(found, storage_reader=reader, no_dist=True))
    return found


def _alone(call: Callable[[], object]) -> None:
    """Let torch save or load in this process only, without a warning; raise what goes wrong.

    torch wraps that into a CheckpointException, which is no Exception: nobody would know a full disk.
    """
    from torch.distributed.checkpoint.api import CheckpointException  # noqa: PLC0415

    wrong: BaseException | None = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        try:
            call()
        except CheckpointException as wrapped:
            wrong, _ = wrapped.failures[0]
    if wrong is not None:  # raised here, it keeps what it came from
        raise wrong


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` with names in place of its tensors, which go to `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {key: _without_tensors(one, f"{name}.{key}", tensors) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [
            _without_tensors(one, f"{name}.{place}", tensors) for place, one in enumerate(value)
        ]
    return value


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_with_tensors(one, tensors) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {_TENSOR}:
        return tensors[value[_TENSOR]]
    return {key: _with_tensors(one, tensors) for key, one in value.items()}


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
