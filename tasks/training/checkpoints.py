"""Atomic checkpoints: a killed fit goes on after its last one, with the same result."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

NAME = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint beside the old one, then put it in its place."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{NAME}"
    with scratch.open("wb") as writer:
        torch.save(state, writer)
        writer.flush()
        os.fsync(writer.fileno())
    scratch.replace(folder / NAME)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the last whole checkpoint, its tensors on the CPU, or None."""
    path = folder / NAME
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
