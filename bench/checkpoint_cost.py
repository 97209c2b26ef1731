"""What a checkpoint costs: `save_checkpoint` beside the one torch.save that it replaced, at the size of real fits.

The state of a fit (weights, AdamW's two moments, the best weights) for networks of MovieLens-1M's 3,416 items and
of 100,000 items; both ways write to the same disk and wait until it holds the bytes. Medians of turns in turn.
usage: python -m bench.checkpoint_cost [FOLDER]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tasks.models.transformer import Transformer
from tasks.training.checkpoints import load_checkpoint, save_checkpoint
from tasks.training.fit_identity import FitIdentity
from tasks.training.random_states import random_states

TURNS = 7
SHAPES = {"3,416 items, width 64": (3_416, 64), "3,416 items, width 256": (3_416, 256)}
IDENTITY = FitIdentity(decides={}, machine={})
SHAPES |= {"100,000 items, width 64": (100_000, 64)}


def a_state(items: int, width: int) -> dict[str, Any]:
    network = Transformer(items, steps=100, width=width, layers=2, heads=2, dropout=0.2)
    optimizer = torch.optim.AdamW(network.parameters())
    sum(one.sum() for one in network.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    kept = optimizer.state_dict()
    return {
        "model": network.state_dict(),
        "optimizer": {
            "state": {str(place): one for place, one in kept["state"].items()},
            "param_groups": kept["param_groups"],
        },
        "best": {name: one.clone() for name, one in network.state_dict().items()},
        "epoch": {"order": torch.randperm(20_000), "random": random_states()},
    }


def by_torch_save(folder: Path, state: dict[str, Any]) -> None:
    """Write one file and put it in place: the way before checkpoints were folders."""
    folder.mkdir(exist_ok=True)
    with (folder / ".one").open("wb") as writer:
        torch.save(state, writer)
        writer.flush()
        os.fsync(writer.fileno())
    (folder / ".one").replace(folder / "one")


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as made:
        for name, (items, width) in SHAPES.items():
            state, here = a_state(items, width), Path(made, name)
            here.mkdir()
            save_checkpoint(here / "ours", state, IDENTITY)  # the first imports what it needs
            ours, one = [], []
            for _ in range(TURNS):
                one.append(seconds(lambda: by_torch_save(here / "one", state)))  # noqa: B023
                ours.append(seconds(lambda: save_checkpoint(here / "ours", state, IDENTITY)))  # noqa: B023
            back = seconds(lambda: load_checkpoint(here / "ours", IDENTITY, print))  # noqa: B023
            size = (here / "one" / "one").stat().st_size / 2**20
            print(
                f"{name}: {size:.1f} MiB, torch.save {statistics.median(one) * 1e3:.0f} ms, checkpoint "
                f"{statistics.median(ours) * 1e3:.0f} ms, ratio "
                f"{statistics.median(b / a for a, b in zip(one, ours, strict=True)):.2f}; read {back * 1e3:.0f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
