"""Where a model trains: the GPU that the pod was given, or the CPU."""

from __future__ import annotations

import os

import torch

# cuBLAS adds in a fixed order only with a workspace of its own (CUDA's documentation of cuBLAS, "Results reproducibility").
_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def training_device() -> torch.device:
    """Return the first CUDA device that torch sees, else the CPU; to be asked before anything runs on it."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault(*_WORKSPACE)
    return torch.device("cuda", 0)


def demand_determinism() -> None:
    """Compute the same bits each time; what is not written yet need not be blanked for that, a kernel each."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def device_name(device: torch.device) -> str:
    """Return "cpu" or the name of the GPU: results are the same bits only on the same kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
