"""The file by which a replay says that a traffic step has no more requests: its bake may end."""

from __future__ import annotations

from pathlib import Path


def used_up_path(state_dir: Path, model: str, release_id: str, step: int) -> Path:
    """Return the file that exists once the step's share of the replay was asked and has landed."""
    return state_dir / model / "traffic" / f"replayed-{release_id}-step-{step}"
