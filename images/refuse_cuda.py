"""Refuse CUDA in a CPU image: `refuse_cuda.py lock|installed cpu|cuda PATH`. Standard library only.

A CUDA build of one package brings gigabytes of others along; in a CPU image that is a mistake.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import distributions
from pathlib import Path

CUDA_NAME = re.compile(r"nvidia-.+|cuda-.+|triton|pytorch-triton")
CUDA_VERSION = re.compile(r"\+cu\d+")


def names_in_lock(lock: Path) -> list[str]:
    """Return `name==version` of every line that pins something."""
    lines = (line.split(";")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def names_installed(environment: Path) -> list[str]:
    """Return `name==version` of every distribution in a virtual environment."""
    folders = [str(folder) for folder in environment.glob("lib/python3.*/site-packages")]
    return [f"{item.metadata['Name']}=={item.version}" for item in distributions(path=folders)]


def cuda_among(pins: Iterable[str]) -> list[str]:
    """Return those that belong to CUDA, sorted."""
    found = set()
    for pin in pins:
        name, _, version = pin.partition("==")
        plain = re.sub(r"[-_.]+", "-", name).lower()
        if CUDA_NAME.fullmatch(plain) or CUDA_VERSION.search(version):
            found.add(f"{plain}=={version}")
    return sorted(found)


def verdict(pins: Sequence[str], variant: str, where: str) -> str | None:
    """Return what is wrong, or None: CUDA in a CPU image, no CUDA in a CUDA image, no packages."""
    cuda = cuda_among(pins)
    if not pins:
        return f"{where}: expected packages, found none"
    if variant == "cpu" and cuda:
        listed = ", ".join(cuda[:10])
        return (
            f"{where}: expected no CUDA in a CPU image, found {len(cuda)} packages of it: {listed}; "
            "take torch from a folder of CPU wheels (make images WHEELS=dir), "
            "or make the CUDA variant on purpose (VARIANT=cuda)"
        )
    if variant == "cuda" and not cuda:
        return f"{where}: expected CUDA packages in the CUDA variant, found none"
    return None


def main(arguments: Sequence[str]) -> int:
    """Print the refusal, if any, and return the exit code."""
    readers = {"lock": names_in_lock, "installed": names_installed}
    if len(arguments) != 3 or arguments[0] not in readers or arguments[1] not in {"cpu", "cuda"}:
        print(__doc__, file=sys.stderr)
        return 4
    kind, variant, path = arguments
    wrong = verdict(readers[kind](Path(path)), variant, path)
    if wrong is not None:
        print(wrong, file=sys.stderr)
    return 0 if wrong is None else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
