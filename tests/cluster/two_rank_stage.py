"""A stage of several ranks in the torch image: they add their numbers by gloo, rank 0 seals the sum."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import distributed

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.artifacts import termination_sentence
from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import STAGE_FACTS

NUMBERS = 100_000


def journal(request: StageRequest, event: str, **more: object) -> None:
    path = Path(os.environ["MATRIX_JOURNAL"]) / f"{request.settings['cell']}.jsonl"
    with path.open("a") as file:
        record = {"event": event, "pod": os.environ["HOSTNAME"], "at": time.time(), **more}
        file.write(json.dumps(record) + "\n")


def seal(request: StageRequest, total: torch.Tensor) -> str:
    recipe = Recipe(
        kind=STAGE_FACTS[request.stage].produces,
        stage=request.stage,
        inputs={},
        config={"cell": str(request.settings["cell"])},
        code="0" * 64,
    )
    store = ArtifactStore(ObjectStore(request.store_url), cache=Path("/tmp/cache"))
    with tempfile.TemporaryDirectory() as out:
        found = {"least": float(total.min()), "most": float(total.max()), "numbers": len(total)}
        Path(out, "sum.json").write_text(json.dumps(found))
        manifest = store.seal(recipe, Path(out), {})
    return termination_sentence(manifest, "summed")


def main() -> int:
    stage, path = sys.argv[1:]
    request = StageRequest.parse(Path(path).read_text(), path)
    assert request.stage.value == stage
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    journal(request, "start", rank=rank, ranks=distributed.get_world_size())
    if request.settings.get("behaviour") == "rank_fails" and rank == 1:
        Path("/dev/termination-log").write_text("rank 1 gave up: as told")
        return 7
    total = torch.full((NUMBERS,), float(10**rank))  # 1 of rank 0, 10 of rank 1
    distributed.all_reduce(total)
    if rank == 0:
        Path("/dev/termination-log").write_text(seal(request, total))
        journal(request, "sealed")
    distributed.barrier()
    distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
