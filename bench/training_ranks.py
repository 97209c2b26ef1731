"""Scaling of training over processes: windows a second of N ranks with one thread each beside one rank with one thread.

The recipe `blended_transformer` for single events, at the shape of a data set like MovieLens-1M (`bench.training_devices`); the ranks are
processes of this machine, joined by gloo over loopback. The same batch of windows is shared by the ranks (strong
scaling). Efficiency is the ratio of the rates over N; turns in turn, median of their ratios.
usage: python -m bench.training_ranks [N]
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
from contextlib import nullcontext

import torch

from bench.training_devices import a_fit, events, windows_a_second
from tasks.contracts.ranks import ALONE, Ranks
from tasks.training.ranks import joined_ranks
from tasks.training.recipes import recipe_named

MEASURED, TURNS = 8, 3


def rate(ranks: Ranks) -> float:
    """Return the windows a second of all ranks together; each batch ends with its loss on every rank."""
    recipe = recipe_named("blended_transformer", baskets=False)
    fit = a_fit(events(), recipe, torch.device("cpu"), ranks)
    return windows_a_second(fit, MEASURED)


def as_rank() -> None:
    torch.set_num_threads(1)
    several = os.environ["WORLD_SIZE"] != "1"
    with joined_ranks() if several else nullcontext(ALONE) as ranks:
        found = rate(ranks)
        if ranks.is_first:
            print(json.dumps(found))


def measured(size: int) -> float:
    """Return the rate of `size` new processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
    }
    words = [sys.executable, "-m", "bench.training_ranks", "--as-rank"]
    started = [
        subprocess.Popen(words, env={**told, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    said = [one.communicate()[0] for one in started]
    if any(one.returncode for one in started):
        message = f"a rank failed: exit codes {[one.returncode for one in started]}"
        raise SystemExit(message)
    found: float = json.loads(said[0])
    return found


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    print(f"{os.cpu_count()} CPU cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    pairs = []
    for _ in range(TURNS):
        pairs.append((measured(1), measured(size)))
        one, several = pairs[-1]
        print(f"1 rank {one:.1f}, {size} ranks {several:.1f} windows/s", flush=True)
    ratio = statistics.median(several / one for one, several in pairs)
    print(f"{size} ranks are {ratio:.2f} times as fast as one: efficiency {ratio / size:.0%}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--as-rank"]:
        as_rank()
    else:
        main()
