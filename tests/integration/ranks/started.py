"""Ranks of one machine as processes on loopback, without a launcher: they are killed one by one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {
    "dropout": 0.0,
    "max_epochs": 6,
    "users": 40,
    "checkpoint_seconds": 30.0,
    "length_buckets": 1,
    "typed": 0,
}
PATIENCE_SECONDS = 300


class Started:
    """The processes of a fit in `size` ranks that work in one folder."""

    def __init__(self, folder: Path, size: int, **settings: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for left in (*folder.glob("began-*"), *folder.glob("ended-*")):
            left.unlink()
        self.folder, self.size = folder, size
        told = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(size),
            "OMP_NUM_THREADS": "1",
        }
        words = ("-m", "tests.integration.ranks.fit_in_ranks", str(folder))
        self.processes = []
        for rank in range(size):
            with (folder / f"log-{rank}").open("w") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *words, json.dumps({**SETTINGS, **settings})],
                        env={**told, "RANK": str(rank)},
                        cwd=ROOT,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )

    def wait(self) -> list[int]:
        """Return the exit codes by rank."""
        return [process.wait(timeout=PATIENCE_SECONDS) for process in self.processes]

    def ended(self) -> list[dict[str, Any]]:
        """Return what each rank found in the end; all ended well."""
        codes = self.wait()
        assert codes == [0] * self.size, self.said()
        return [
            json.loads((self.folder / f"ended-{rank}.json").read_text())
            for rank in range(self.size)
        ]

    def said(self) -> str:
        return "\n".join(
            f"rank {rank}: {(self.folder / f'log-{rank}').read_text()[-1500:]}"
            for rank in range(self.size)
        )

    def wait_until_begun(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(list(self.folder.glob("began-*"))) < self.size:
            assert time.monotonic() < deadline, self.said()
            assert all(one.poll() is None for one in self.processes), self.said()
            time.sleep(0.005)

    def kill(self) -> list[int]:
        """Kill all with 9, rank 0 first."""
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
        return self.wait()
