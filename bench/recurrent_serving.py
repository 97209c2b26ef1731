"""Bytes and milliseconds of GRU4Rec's SavedModel with a loop over its steps, beside the same network with its steps unrolled.

Peer in the same run: the graph that torch's own decomposition of the GRU gives, one copy of the step for each of the 100 steps. The
network of the recipe `gru` at MovieLens-1M's size, int8, weights drawn and not trained, which changes neither bytes nor times. Both are
loaded by the server's own session, one thread, and asked the same requests in turns. Milliseconds are of the process, since other work
on the machine would count otherwise.
usage: python -m bench.recurrent_serving [--rounds 10]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import tensorflow as tf
import torch

from tasks.bundling import aten_export
from tasks.bundling.aten_export import export_module
from tasks.bundling.bundle import saved_model_bytes
from tasks.bundling.signatures import ServedModel, write_served_model
from tasks.compression.compress import compress
from tasks.serving.session import SavedModelSession, SessionOptions
from tasks.training.make_model import untrained_network
from tasks.training.recipes import recipe_named

ITEMS, SEED, K = 3_416, 1, 20
BATCHES = ((1, 20), (1, 100), (8, 100), (64, 100))
ASKED_A_TURN = 3


def written(folder: Path, compression: str) -> int:
    """Write the SavedModel as a bundle has it; return its bytes."""
    recipe = recipe_named("gru", baskets=False)
    model = compress(untrained_network(recipe, ITEMS, SEED).model, compression)
    inputs = {name: torch.ones((3, 7), dtype=torch.int64) for name in model.inputs}
    export = export_module(model, inputs, model.names)
    served = ServedModel(
        graph=export.graph,
        weights={name: tensor.numpy() for name, tensor in export.weights.items()},
        item_ids=tuple(str(item) for item in range(1, ITEMS + 1)),
        k=K,
        max_length=recipe.max_length,
        exclude_seen=True,
    )
    write_served_model(folder, served)
    return saved_model_bytes(folder)


def written_unrolled(folder: Path, compression: str) -> int:
    """Write the same with the GRU taken apart."""
    kept = tuple(op for op in aten_export.KEPT_WHOLE if op is not torch.ops.aten.gru.input)
    with mock.patch.object(aten_export, "KEPT_WHOLE", kept):
        return written(folder, compression)


def request(batch: int, length: int) -> dict[str, bytes]:
    """Return histories [batch, length] as the server takes them."""
    items = np.random.default_rng(SEED).integers(1, ITEMS + 1, (batch, length))
    arrays = {"history": items.astype(str), "steps_ago": np.zeros((1, 1), np.int64)}
    return {name: tf.make_tensor_proto(one).SerializeToString() for name, one in arrays.items()}


def seconds(session: SavedModelSession, asked: dict[str, bytes]) -> float:
    """Return the process's seconds for one answer, the median of a few."""
    found = []
    for _ in range(ASKED_A_TURN):
        start = time.process_time()
        session.run(session.signatures["serving_default"], asked)
        found.append(time.process_time() - start)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sessions = {}
        for name, write in (("loop", written), ("unrolled", written_unrolled)):
            folder = Path(scratch) / name
            small, whole = write(folder, "int8"), write(folder.with_name(f"{name}-fp32"), "none")
            graph = (folder / "saved_model.pb").stat().st_size
            print(
                f"{name}: int8 {small:,} bytes, of them graph {graph:,}; fp32 {whole:,}; "
                f"{small / whole:.1%}",
                flush=True,
            )
            sessions[name] = SavedModelSession(folder, SessionOptions())
        for batch, length in BATCHES:
            asked = request(batch, length)
            for session in sessions.values():
                seconds(session, asked)
            turns = [
                {name: seconds(session, asked) for name, session in sessions.items()}
                for _ in range(options.rounds)
            ]
            loop, unrolled = (
                statistics.median(turn[name] for turn in turns) for name in ("loop", "unrolled")
            )
            ratio = statistics.median(turn["loop"] / turn["unrolled"] for turn in turns)
            print(
                f"{batch} x {length} items: loop {loop * 1e3:.1f} ms, unrolled {unrolled * 1e3:.1f} ms, "
                f"ratio {ratio:.2f}"
            )
        for session in sessions.values():
            session.close()
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
