"""`make kills`: 20 kills of every stage; prints the table that docs/benchmarks.md quotes.

With a real MLflow, so that mirror_release has somebody to tell. KILLS=n changes the number of
kills, KILLS_STAGES=a,b the stages, KILLS_FOLDER keeps the built release for the next call.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks.contracts.stages import Stage
from tests.integration.kills.driver import Tally, as_table, kill_often
from tests.integration.kills.kill_world import (
    LEAST_INSIDE,
    LEAST_RESUMED,
    THREADS,
    WITH_EFFECTS,
    KillWorld,
    kill_world,
)
from tests.integration.kills.mirror_world import with_mlflow


@contextmanager
def the_world(stages: list[Stage]) -> Iterator[KillWorld]:
    with ExitStack() as stack:
        kept = os.environ.get("KILLS_FOLDER")
        made = tempfile.TemporaryDirectory(prefix="headrace-kills-")
        folder = Path(kept or stack.enter_context(made))
        folder.mkdir(parents=True, exist_ok=True)
        world = stack.enter_context(kill_world(folder))
        if Stage.MIRROR_RELEASE in stages:
            with_mlflow(world)
        yield world


def main() -> int:
    kills, seed = int(os.environ.get("KILLS", "20")), int(os.environ.get("KILLS_SEED", "1"))
    named = os.environ.get("KILLS_STAGES")
    stages = [Stage(name) for name in named.split(",")] if named else list(Stage)
    started = time.monotonic()
    with the_world(stages) as world, ThreadPoolExecutor(2) as pool:
        built = time.monotonic() - started

        def killed(some: Iterable[Stage]) -> list[Tally]:
            return [told(kill_often(world.subject(stage), kills, seed)) for stage in some]

        # Stages without effects beside those with effects, which share one state.
        groups = [
            [s for s in stages if (s in WITH_EFFECTS) is effects] for effects in (False, True)
        ]
        tallies = [tally for group in pool.map(killed, groups) for tally in group]
    seconds = time.monotonic() - started
    print(f"\n{as_table(tallies)}\n")
    print(
        f"seed {seed}, {THREADS} thread a stage, {os.cpu_count()} cores, release built in "
        f"{built:.0f} s, all in {seconds / 60:.0f} min"
    )
    well = [tally for tally in tallies if not _failed(tally, kills)]
    return int(len(well) != len(stages))


def told(tally: Tally) -> Tally:
    """Print a row at once: the whole takes long."""
    lines = [f"| {' | '.join(tally.row())} |", *(f"  trouble: {t}" for t in tally.trouble)]
    print("\n".join(lines), flush=True)
    return tally


def _failed(tally: Tally, kills: int) -> bool:
    stage, inside = Stage(tally.name), [place for place in tally.resumed if "batch" in place]
    least = math.ceil(LEAST_RESUMED.get(stage, 0.0) * kills)
    least_inside = math.ceil(LEAST_INSIDE.get(stage, 0.0) * kills)
    few = len(tally.resumed) < least or len(inside) < least_inside
    if stage in LEAST_RESUMED:
        print(
            f"{stage}: {len(tally.resumed)} of {kills} kills resumed (at least {least} expected), "
            f"{len(inside)} of them inside an epoch (at least {least_inside})"
        )
    return bool(tally.trouble) or tally.equal != kills or few


if __name__ == "__main__":
    sys.exit(main())
