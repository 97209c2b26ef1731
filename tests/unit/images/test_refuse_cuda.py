from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CHECK = ROOT / "images" / "refuse_cuda.py"


def check(*arguments: str) -> tuple[int, str]:
    end = subprocess.run(
        [sys.executable, str(CHECK), *arguments], capture_output=True, text=True, check=False
    )
    return end.returncode, end.stderr


def environment(folder: Path, *pins: str) -> str:
    """A real site-packages with the metadata of real distributions and none of their files."""
    for pin in pins:
        name, _, version = pin.partition("==")
        info = folder / "lib/python3.11/site-packages" / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return str(folder)


@pytest.mark.parametrize("image", ("airflow", "data", "torch", "tensorflow", "rollout"))
def test_no_lock_of_a_cpu_image_asks_for_cuda(image: str) -> None:
    assert check("lock", "cpu", str(ROOT / f"requirements/{image}.lock")) == (0, "")


def test_the_lock_of_the_cuda_variant_is_refused_in_a_cpu_image() -> None:
    lock = str(ROOT / "requirements/torch-cuda.lock")
    code, sentence = check("lock", "cpu", lock)
    assert code == 3
    assert "expected no CUDA in a CPU image" in sentence
    assert "nvidia-" in sentence
    assert check("lock", "cuda", lock) == (0, "")


@pytest.mark.parametrize(
    "pin",
    (
        "nvidia-cublas-cu12==12.8.4.1",
        "nvidia_nccl==2.27",
        "NVIDIA.cudnn==9",
        "triton==3.7",
        "cuda-bindings==13.0",
        "torch==2.13.0+cu130",
    ),
)
def test_a_package_of_cuda_that_came_in_is_refused_by_name(tmp_path: Path, pin: str) -> None:
    folder = environment(
        tmp_path, "numpy==2.4.6", "torch==2.13.0+cpu" if "torch" not in pin else "x==1", pin
    )
    code, sentence = check("installed", "cpu", folder)
    assert code == 3
    assert pin.lower().replace("_", "-").replace("nvidia.", "nvidia-") in sentence
    assert "make images WHEELS=dir" in sentence


def test_the_cpu_wheel_of_torch_is_taken(tmp_path: Path) -> None:
    assert check("installed", "cpu", environment(tmp_path, "torch==2.13.0+cpu", "numpy==2")) == (
        0,
        "",
    )


def test_a_cuda_variant_without_cuda_is_refused(tmp_path: Path) -> None:
    code, sentence = check("installed", "cuda", environment(tmp_path, "torch==2.13.0+cpu"))
    assert (code, "expected CUDA packages in the CUDA variant" in sentence) == (3, True)


def test_an_environment_without_packages_is_refused(tmp_path: Path) -> None:
    code, sentence = check("installed", "cpu", str(tmp_path))
    assert (code, "expected packages, found none" in sentence) == (3, True)


@pytest.mark.parametrize("arguments", ((), ("lock", "gpu", "x"), ("wheel", "cpu", "x")))
def test_a_wrong_call_is_told_how(arguments: tuple[str, ...]) -> None:
    code, sentence = check(*arguments)
    assert (code, "lock|installed cpu|cuda PATH" in sentence) == (4, True)
