"""Ranks that have trained end: gloo's thread and the end of its group do not wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
MEETINGS = 30

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_ranks_part_as_often_as_they_meet(tmp_path: Path) -> None:
    """Without a reference that is kept, two ranks hung within 40 meetings in 3 of 3 runs."""
    told = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MASTER_ADDR": "127.0.0.1",
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    words = [sys.executable, "-m", "tests.integration.ranks.part_often"]
    words += [str(free_port()) for _ in range(MEETINGS)]
    logs = [tmp_path / f"log-{rank}" for rank in range(2)]
    ranks = []
    for rank, path in enumerate(logs):
        with path.open("w") as log:
            ranks.append(
                subprocess.Popen(
                    words, env={**told, "RANK": str(rank)}, stdout=log, stderr=subprocess.STDOUT
                )
            )
    try:
        codes = [one.wait(timeout=120) for one in ranks]
    finally:
        for one in ranks:
            one.kill()
            one.wait()
    assert codes == [0, 0], [path.read_text()[-1500:] for path in logs]
