"""What the pods of the fault matrix run: works in steps, keeps checkpoints, really seals.

Every start, step and seal is a line of $MATRIX_JOURNAL/<cell>.jsonl, which the tests read: work
done twice, or by two pods at once, shows there.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from meeting import Meeting  # beside it in the image

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.artifacts import termination_sentence
from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import STAGE_FACTS

STEP_SECONDS = 0.5


class Cell:
    """One cell of the matrix as its pods see it."""

    def __init__(self, request: StageRequest, others: Meeting | None) -> None:
        self.request = request
        self.others = others  # of a group
        self.name = str(request.settings["cell"])
        self.behaviour = str(request.settings.get("behaviour", "work"))
        self.folder = Path(os.environ["MATRIX_JOURNAL"])
        self.checkpoint = self.folder / f"{self.name}.checkpoint"

    def write(self, event: str, **more: object) -> None:
        record = {"event": event, "pod": os.environ["HOSTNAME"], "at": time.time(), **more}
        with (self.folder / f"{self.name}.jsonl").open("a") as journal:
            journal.write(json.dumps(record) + "\n")

    def once(self, name: str) -> bool:
        """Say whether this is the first pod of the cell to come here."""
        try:
            (self.folder / f"{self.name}.{name}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def work(self) -> None:
        done = int(self.checkpoint.read_text()) if self.checkpoint.exists() else 0
        for step in range(done, int(str(self.request.settings.get("steps", 4)))):
            time.sleep(STEP_SECONDS)
            if self.others is not None:
                self.others.demand_all()
            fresh = self.checkpoint.with_suffix(f".{os.getpid()}.{os.environ['HOSTNAME']}")
            fresh.write_text(str(step + 1))
            fresh.replace(self.checkpoint)
            self.write("step", step=step)
            print(f"{self.name}: step {step}", flush=True)

    def seal(self) -> str:
        store = ArtifactStore(ObjectStore(self.request.store_url), cache=Path("/tmp/cache"))
        recipe = Recipe(
            kind=STAGE_FACTS[self.request.stage].produces,
            stage=self.request.stage,
            inputs={},
            config={"cell": self.name},
            code="0" * 64,
        )
        known = store.find(recipe.address)
        if known is not None:
            self.write("reused")
            return termination_sentence(known, "re-used")
        self.work()
        with tempfile.TemporaryDirectory() as out:
            size = int(str(self.request.settings.get("payload_bytes", 100)))
            Path(out, "payload.bin").write_bytes(b"x" * size)
            manifest = store.seal(recipe, Path(out), {})
        self.write("sealed")
        return termination_sentence(manifest, f"{self.name} worked")


def follow(cell: Cell, others: Meeting, log: Path) -> int:
    """Do as another rank than the first: be there until it ends."""
    if cell.behaviour == "rank_fails":
        time.sleep(2 * STEP_SECONDS)
        log.write_text(f"rank {others.rank} gave up: as told")
        return 7
    others.await_end()
    return 0


def main() -> int:
    stage, path = sys.argv[1:]
    request = StageRequest.parse(Path(path).read_text(), path)
    assert request.stage.value == stage
    others = Meeting.from_environment()
    cell = Cell(request, others)
    cell.write("start")
    print(f"{cell.name}: first line", flush=True)
    log = Path("/dev/termination-log")
    if others is not None and others.rank > 0:
        return follow(cell, others, log)
    if cell.behaviour == "oom_once" and cell.once("oom"):
        hoard = [bytearray(16 * 1024 * 1024) for _ in range(64)]
        log.write_text(f"still alive with {len(hoard)} pieces")
        return 1
    if cell.behaviour == "crash_once" and cell.once("crash"):
        log.write_text("crashed: as told")
        return 1
    if cell.behaviour == "silent":
        return 0
    if cell.behaviour == "refuse":
        log.write_text("refused: as told")
        return 3
    log.write_text(cell.seal())
    print(f"{cell.name}: last line", flush=True)
    cell.write("last")
    return 0


if __name__ == "__main__":
    sys.exit(main())
