"""The launcher starts torchrun with the PET_* variables of a pod, and ends as its module does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
SUMS = """
import sys
import torch
from torch import distributed
distributed.init_process_group("gloo")
rank = distributed.get_rank()
if rank == 1 and sys.argv[1] == "fail":
    sys.exit(7)
total = torch.tensor([10.0**rank])
distributed.all_reduce(total)
print(rank, float(total))
distributed.barrier()
distributed.destroy_process_group()
"""


def ranks(folder: Path, argument: str) -> list[subprocess.CompletedProcess[str]]:
    (folder / "sums.py").write_text(SUMS)
    port = free_port()
    told = {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_RDZV_BACKEND": "static",
        "PET_RDZV_ENDPOINT": f"127.0.0.1:{port}",
        "PET_RDZV_ID": "group-a-1",
        "PET_RDZV_CONF": "timeout=60",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tasks.training.launch", "sums", argument],
            env={**os.environ, **told, "PET_NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [one.communicate(timeout=120)[0] for one in started]
    return [
        subprocess.CompletedProcess(one.args, one.returncode, text)
        for one, text in zip(started, said, strict=True)
    ]


@pytest.mark.integration
def test_two_ranks_meet_and_add_their_numbers(tmp_path: Path) -> None:
    done = ranks(tmp_path, "well")
    assert [one.returncode for one in done] == [0, 0], done[0].stdout + done[1].stdout
    assert "0 11.0" in done[0].stdout
    assert "1 11.0" in done[1].stdout


@pytest.mark.integration
def test_a_failed_rank_keeps_its_exit_code_and_its_peer_does_not_hang(tmp_path: Path) -> None:
    done = ranks(tmp_path, "fail")
    assert [one.returncode for one in done] == [1, 7], done[0].stdout + done[1].stdout
