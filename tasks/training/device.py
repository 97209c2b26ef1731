"""Where a model trains: the GPU that the pod was given, or the CPU."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import torch

# cuBLAS adds in a fixed order only with a workspace of its own (CUDA's documentation of cuBLAS, "Results reproducibility").
_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
_CPU_TYPE = ("model name", "cpu family", "model", "CPU implementer", "CPU part")  # x86, ARM


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


@cache
def cpu_name() -> str:
    """Return the CPU's type and the instructions that torch uses of it: results are the same bits only on the same."""
    named = _cpu_type(Path("/proc/cpuinfo")) or platform.processor() or platform.machine()
    return f"{named}, {torch.backends.cpu.get_cpu_capability()}"


def _cpu_type(file: Path) -> str:
    """Return the fields of _CPU_TYPE that the first processor of `file` has; nothing where there is no such file."""
    try:
        first = file.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return ""
    named = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in named.items()}
    return ", ".join(f"{name} {known[name]}" for name in _CPU_TYPE if name in known)
