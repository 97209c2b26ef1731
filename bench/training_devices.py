"""Training on the GPU beside the CPU: windows a second of the same fit, at the shape of a data set like ML-1M.

6,040 users, 3,416 items and 1,000,000 events drawn by a Zipf law from a fixed seed; the recipe
`blended_transformer` for single events (100 steps, width 64, batches of 128 windows, 512 negatives),
and `wide_transformer` (200 steps, width 256, 3,000 negatives). Peer in the same run: the same fit on the CPU with all cores.
usage: python -m bench.training_devices
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from tasks.contracts.ranks import ALONE, Ranks
from tasks.models.interactions import EventRows, Interactions
from tasks.models.transformer import Transformer
from tasks.training.device import device_name, training_device
from tasks.training.fit import Fit
from tasks.training.make_model import fit_settings
from tasks.training.recipes import Recipe, recipe_named

USERS, ITEMS, EVENTS = 6_040, 3_416, 1_000_000
WARM_UP, MEASURED, ROUNDS = 3, 12, 3
SEED = 7


class EnoughError(Exception):
    """Enough batches were timed."""


def events() -> Interactions:
    rng = np.random.default_rng(SEED)
    user = np.sort(rng.integers(0, USERS, EVENTS))
    item = np.minimum(rng.zipf(1.2, EVENTS), ITEMS)
    place = np.arange(EVENTS) - np.searchsorted(user, user)
    left = np.bincount(user, minlength=USERS)[user] - place
    return Interactions.from_rows(
        EventRows(
            item_ids=np.asarray([f"i{number:05d}" for number in range(ITEMS)]),
            user_ids=np.asarray([f"u{number:05d}" for number in range(USERS)]),
            user=user,
            item=item,
            basket=place,
            event_type=np.full(EVENTS, 3),
            time=place * 60,
            period=np.select([left == 1, left == 2, left == 3], [3, 2, 1], 0),
            repeats_allowed=False,
            baskets=False,
            order_only=False,
        )
    )


def a_fit(
    interactions: Interactions, recipe: Recipe, device: torch.device, ranks: Ranks = ALONE
) -> Fit:
    settings = recipe.transformer
    torch.manual_seed(SEED)
    model = Transformer(
        ITEMS,
        steps=settings.steps,
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        dropout=settings.dropout,
    )
    return Fit(
        model,
        interactions,
        interactions.examples(1),
        fit_settings(recipe, SEED),
        device=device,
        ranks=ranks,
        checkpoint_seconds=float("inf"),  # batches are timed, nothing else
    )


def windows_a_second(fit: Fit, batches: int) -> float:
    """Return the rate of `batches` batches after the warm-up; each batch ends with its loss on the CPU."""
    times: list[float] = []

    def say(_sentence: str, _fraction: float | None) -> None:
        times.append(time.perf_counter())
        if len(times) == WARM_UP + batches:
            raise EnoughError

    with tempfile.TemporaryDirectory() as folder, suppress(EnoughError):
        fit.run(Path(folder), say)
    seconds = times[-1] - times[WARM_UP - 1]
    return batches * fit.settings.batch_windows / seconds


def main() -> None:
    gpu = training_device()
    if gpu.type != "cuda":
        message = "no CUDA device: this bench compares one with the CPU"
        raise SystemExit(message)
    cpu = torch.device("cpu")
    torch.set_num_threads(os.cpu_count() or 1)
    interactions = events()
    print(f"{device_name(gpu)} beside {os.cpu_count()} CPU cores, torch {torch.__version__}")
    for name in ("blended_transformer", "wide_transformer"):
        recipe = recipe_named(name, baskets=False)
        pairs = []
        for _ in range(ROUNDS):
            slow = windows_a_second(a_fit(interactions, recipe, cpu), MEASURED)
            torch.cuda.reset_peak_memory_stats()
            fast = windows_a_second(a_fit(interactions, recipe, gpu), 3 * MEASURED)
            pairs.append((slow, fast))
        ratio = statistics.median(fast / slow for slow, fast in pairs)
        slow, fast = (statistics.median(side) for side in zip(*pairs, strict=True))
        peak = torch.cuda.max_memory_allocated() / 2**20
        print(
            f"{name:20} CPU {slow:8.0f} windows/s  GPU {fast:8.0f} windows/s  ratio {ratio:.1f} "
            f"(of {', '.join(f'{b / a:.1f}' for a, b in pairs)})  GPU memory {peak:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
