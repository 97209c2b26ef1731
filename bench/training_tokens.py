"""Tokens a second of our Transformer's training beside gSASRec's own training script, at equal shape, on a CPU.

Peer in the same run: `train_gsasrec.py` of github.com/asash/gSASRec-pytorch, unchanged, from a checkout in `--peer` (its own
requirements torchinfo and ir_measures must be importable); only its progress bar is replaced, by one that reads the clock.
Both train on MovieLens-1M without each user's last two items: 200 steps, width 128, 2 blocks, 1 head, dropout .5, 256 negatives,
32 sequences a batch. The peer draws negatives for each token, ours are shared by a batch; with `--peer-negatives 1` the peer is a
plain SASRec, which spends next to nothing on its loss. Our feed-forward layers are twice as wide as the peer's.
A token is a place of a sequence with an item to predict; padding is not counted. The two take turns.
usage: HEADRACE_DATA=folder python -m bench.training_tokens --peer FOLDER [--threads 1] [--peer-negatives 1]
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from contextlib import chdir, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from bench.published_split import SELECT, TRAIN, movie_lens
from tasks.models.interactions import Interactions
from tasks.models.sequence_model import SequenceModel
from tasks.training.fit import Fit
from tasks.training.make_model import fit_settings, untrained_network
from tasks.training.recipes import TransformerSettings, recipe_named

STEPS, WIDTH, BLOCKS, HEADS, DROPOUT, NEGATIVES, BATCH = 200, 128, 2, 1, 0.5, 256, 32
WARM_UP, MEASURED, ROUNDS, SEED = 1, 5, 3, 1


class EnoughError(Exception):
    """Enough batches were timed."""


class Clock:
    """Reads the time at the start of every batch, and ends the training after enough of them."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def tick(self) -> None:
        self.times.append(time.perf_counter())
        if len(self.times) == WARM_UP + MEASURED + 1:
            raise EnoughError

    def batches_a_second(self) -> float:
        return MEASURED / (self.times[-1] - self.times[WARM_UP])

    def bar(self, batches: Any) -> Any:
        """Return what the peer takes for tqdm's bar."""

        class Bar:
            def __iter__(bar) -> Iterator[Any]:  # noqa: N805
                for batch in batches:
                    self.tick()
                    yield batch

            def set_description(bar, _text: str) -> None:  # noqa: N805
                pass

        return Bar()


def ours(interactions: Interactions) -> float:
    """Return tokens a second of `fit`."""
    shape = TransformerSettings(
        steps=STEPS,
        width=WIDTH,
        layers=BLOCKS,
        heads=HEADS,
        dropout=DROPOUT,
        negatives=NEGATIVES,
        batch_windows=BATCH,
        weight_decay=0.0,
    )
    recipe = replace(
        recipe_named("transformer", baskets=False), max_length=STEPS, transformer=shape
    )
    model = untrained_network(recipe, interactions.num_items, SEED).model
    assert isinstance(model, SequenceModel)
    how, cpu = fit_settings(recipe, SEED), torch.device("cpu")
    fit = Fit(model, interactions, interactions.examples(SELECT), how, device=cpu)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, suppress(EnoughError):
        fit.run(Path(folder), lambda _sentence, _share: clock.tick())
    tokens = len(fit.windows.pair_item) / len(fit.windows) * BATCH
    return clock.batches_a_second() * tokens


def write_sequences(interactions: Interactions, folder: Path) -> float:
    """Write the train items as the peer reads them; return its mean tokens a sequence."""
    (folder / "train").mkdir(parents=True)
    (folder / "val").mkdir()
    known = interactions.period == TRAIN
    user = np.repeat(np.arange(interactions.num_users), np.diff(interactions.offsets))[known]
    rows = np.split(interactions.items[known], np.flatnonzero(np.diff(user)) + 1)
    lines = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    (folder / "train" / "input.txt").write_text(lines)
    (folder / "val" / "input.txt").write_text(lines)
    (folder / "val" / "output.txt").write_text("1\n" * len(rows))
    stats = {"num_items": interactions.num_items}
    (folder / "dataset_stats.json").write_text(json.dumps(stats))
    return float(np.mean([min(len(row) - 1, STEPS) for row in rows]))


def config(negatives: int) -> str:
    """Return the peer's configuration as it reads it."""
    return f"""from config import GSASRecExperimentConfig
config = GSASRecExperimentConfig(dataset_name="ml1m", sequence_length={STEPS}, embedding_dim={WIDTH},
    num_heads={HEADS}, num_blocks={BLOCKS}, dropout_rate={DROPOUT}, negs_per_pos={negatives}, gbce_t=0.75,
    train_batch_size={BATCH}, max_epochs=1)
"""


def theirs(interactions: Interactions, peer: Path, negatives: int) -> float:
    """Return tokens a second of the peer's script."""
    clock = Clock()
    progress: Any = types.ModuleType("tqdm")
    progress.tqdm = clock.bar
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in peer.glob("*.py"):
            shutil.copy(file, folder)
        tokens = write_sequences(interactions, folder / "datasets" / "ml1m")
        (folder / "config_bench.py").write_text(config(negatives))
        torch.manual_seed(SEED)
        arguments = ["train_gsasrec.py", "--config", "config_bench.py"]
        with (
            chdir(folder),
            mock.patch.object(sys, "argv", arguments),
            mock.patch.object(sys, "path", [name, *sys.path]),
            mock.patch.dict(sys.modules, {"tqdm": progress}),
            mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": ""}),
            Path(os.devnull).open("w") as silence,
            mock.patch.object(sys, "stdout", silence),
            suppress(EnoughError),
        ):
            runpy.run_path("train_gsasrec.py", run_name="__main__")
    return clock.batches_a_second() * tokens * BATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer-negatives", type=int, default=NEGATIVES)
    options = parser.parse_args()
    folder = os.environ.get("HEADRACE_DATA")
    if not folder:
        parser.error("HEADRACE_DATA: expected a folder with ml-1m/ml-1m.txt.gz, found nothing")
    if not (options.peer / "train_gsasrec.py").is_file():
        parser.error(f"--peer: expected a checkout with train_gsasrec.py, found {options.peer}")
    torch.set_num_threads(options.threads)
    interactions = movie_lens(Path(folder))
    pairs = []
    for number in range(ROUNDS):
        pairs.append(
            (ours(interactions), theirs(interactions, options.peer, options.peer_negatives))
        )
        print(
            f"round {number + 1}: {pairs[-1][0]:,.0f} and {pairs[-1][1]:,.0f} tokens/s", flush=True
        )
    mine, peer = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = [one / other for one, other in pairs]
    print(
        f"ours {mine:,.0f}, gSASRec {peer:,.0f} tokens/s with {options.threads} threads, torch "
        f"{torch.__version__}, {options.peer_negatives} negatives a token of the peer; ratio {statistics.median(ratios):.2f} "
        f"({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
    )


if __name__ == "__main__":
    main()
