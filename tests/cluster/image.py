"""The image of the matrix's pods: this machine's Python, the sealing code, and matrix_stage.py."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import fsspec

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "localhost/headrace/matrix-{image}:1"
_ADAPTERS = ("__init__.py", "artifact_store.py", "object_store.py", "scratch_space.py")
_LEFT_OUT = shutil.ignore_patterns(
    "site-packages",
    "test",
    "tests",
    "__pycache__",
    "config-*",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "pydoc_data",
    "turtledemo",
    "_tkinter*",
)
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


def build(folder: Path, kit: Path, name: str) -> Path:
    """Return an image archive of that name."""
    rootfs, archive = folder / "rootfs", folder / "matrix.tar"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    (rootfs / "usr/local/bin").mkdir(parents=True)
    python = rootfs / "usr/local/bin/python3"
    shutil.copy2(base / "bin" / version, python)
    library = rootfs / "usr/local/lib" / version
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=_LEFT_OUT)
    _copy_libraries([python, *library.glob("lib-dynload/*.so")], rootfs)
    app = rootfs / "app"
    shutil.copytree(ROOT / "tasks/contracts", app / "tasks/contracts")
    (app / "tasks/adapters").mkdir()
    for file in _ADAPTERS:
        shutil.copy2(ROOT / "tasks/adapters" / file, app / "tasks/adapters" / file)
    shutil.copytree(Path(fsspec.__file__).parent, app / "fsspec", ignore=_LEFT_OUT)
    for script in ("matrix_stage.py", "meeting.py"):
        shutil.copy2(Path(__file__).with_name(script), app / script)
    for empty in ("tmp", "proc", "sys", "dev", "etc"):
        (rootfs / empty).mkdir()
    subprocess.run(["chmod", "-R", "a+rX", str(rootfs)], check=True)
    options = ["-t", name, "-o", str(archive), "--user", "10001", "--workdir", "/app"]
    options += ["--entrypoint", '["/usr/local/bin/python3", "-B", "/app/matrix_stage.py"]']
    options += ["--env", "LD_LIBRARY_PATH=/usr/local/lib", "--env", "PYTHONPATH=/app"]
    subprocess.run([str(kit / "mkimage"), *options, str(rootfs)], check=True)
    return archive


def _copy_libraries(programs: list[Path], rootfs: Path) -> None:
    told = subprocess.run(
        ["ldd", *map(str, programs)], check=True, capture_output=True, text=True
    ).stdout
    for found in sorted(set(_LIBRARY.findall(told))):
        source = Path(found)
        loader = source.name.startswith("ld-linux")
        target = rootfs / (found.lstrip("/") if loader else f"usr/local/lib/{source.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(source.resolve(), target)
