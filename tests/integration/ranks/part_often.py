"""Meet, train one step and part, again and again: each argument is the port of one meeting."""

from __future__ import annotations

import os
import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tasks.training.ranks import joined_ranks

if __name__ == "__main__":
    for port in sys.argv[1:]:
        os.environ["MASTER_PORT"] = port
        with joined_ranks():
            network = DistributedDataParallel(nn.Linear(2, 1))
            network(torch.ones(1, 2)).sum().backward()
        del network  # DDP's would be the last reference to the group
