"""The CPU's type, in the words of its own system."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tasks.training.device import _cpu_type, cpu_name

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 207
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu vme

processor\t: 1
model\t\t: 999
"""
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("text", "said"),
    (
        (X86, "model name Intel(R) Xeon(R) Processor, cpu family 6, model 207"),
        (ARM, "CPU implementer 0x41, CPU part 0xd40"),
        ("", ""),
    ),
    ids=("x86", "ARM", "a file that says nothing"),
)
def test_a_cpu_type_is_what_the_first_processor_says(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert _cpu_type(tmp_path / "cpuinfo") == said


def test_without_such_a_file_the_type_is_the_platforms(tmp_path: Path) -> None:
    assert _cpu_type(tmp_path / "none") == ""


def test_a_cpus_name_ends_with_the_instructions_that_torch_uses() -> None:
    assert cpu_name().endswith(f", {torch.backends.cpu.get_cpu_capability()}")
    assert len(cpu_name()) > len(", AVX2")
