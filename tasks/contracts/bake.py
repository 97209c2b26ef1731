"""Files of the state folder that both sides look at while a step bakes or a person decides."""

from __future__ import annotations

from pathlib import Path

STATE_FILE = "state.json"


def used_up_path(state_dir: Path, model: str, release_id: str, step: int) -> Path:
    """Return the file that exists once the step's share of the replay was asked and has landed."""
    return state_dir / model / "traffic" / f"replayed-{release_id}-step-{step}"


def state_path(state_dir: Path, model: str) -> Path:
    """Return a model's state record; it is replaced at every change."""
    return state_dir / model / STATE_FILE
