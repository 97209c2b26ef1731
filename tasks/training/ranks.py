"""Ranks that train together by torch.distributed: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from tasks.contracts.ranks import Ranks
from tasks.training.device import training_device

# As long as a stage may run: others wait while rank 0 blends, or waits for another process's seal. A rank that
# ends closes its sockets, and those that wait for it fail at once.
PATIENCE = timedelta(hours=12)

# What would be freed by gloo's own thread needs the GIL there, and what ends a group waits for that thread: where
# both meet, as DDP's last reference goes, neither ends. So these live as long as the process.
_kept: list[object] = []

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class JoinedRanks(Ranks):
    """Ranks of the default process group; what passes between them is small and goes by gloo."""

    def from_first(self, value: _T) -> _T:
        """Return the first rank's value on every rank."""
        told = [value if self.is_first else None]
        distributed.broadcast_object_list(told, src=0)
        found: _T = told[0]  # type: ignore[assignment]
        return found

    def gathered(self, value: _T) -> list[_T]:
        """Return the values of all ranks, by rank, on every rank."""
        found: list[_T] = [value] * self.size
        distributed.all_gather_object(found, value)
        return found

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sums over the ranks of each of `values`, the same bits on every rank."""
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return [float(one) for one in sums]


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Meet the other ranks by torchrun's variables, and part from them at the end, not before all are there."""
    device = training_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield JoinedRanks(rank=distributed.get_rank(), size=distributed.get_world_size())
        _part(device)
    finally:
        _kept.append(distributed.group.WORLD)
        distributed.destroy_process_group()


def _part(device: torch.device) -> None:
    if device.type == "cuda":
        distributed.barrier()
        return
    last = distributed.barrier(async_op=True)
    _kept.append(last)
    last.wait()
