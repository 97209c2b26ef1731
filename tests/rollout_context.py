"""What a stage that moves a rollout is given in tests: a store and a state of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.contracts.stage_io import StageContext


def rollout_context(folder: Path, **fields: Any) -> StageContext:
    """Return a context without inputs; `folder` holds its store, its state and what it makes."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    return StageContext(
        inputs={},
        out=out,
        work=out,
        progress=lambda _sentence, _share: None,
        store_url=f"file://{folder}/store",
        state_dir=folder / "state",
        **fields,
    )
