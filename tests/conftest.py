"""Folders and marks that all tests share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_disks import Mount

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder: tests/integration starts real servers, tests/images runs built images."""
    for item in items:
        below = item.path.relative_to(ROOT / "tests").parts[0]
        if below in {"integration", "images", "cluster"}:
            item.add_marker(below)


@pytest.fixture
def data_folder() -> Path:
    """The folder of real data sets, or a skip that says how to get it."""
    folder = os.environ.get("HEADRACE_DATA")
    if not folder:
        pytest.skip("set HEADRACE_DATA to a folder with ml-1m/, taobao-userbehavior-sample/, ...")
    return Path(folder).resolve()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount small file systems of our own; skip where this user may not."""
    mounted: list[Path] = []

    def small(options: str) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a file system")
        mounted.append(folder)
        return folder

    yield small
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)
