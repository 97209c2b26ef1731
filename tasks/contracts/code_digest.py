"""The code digest of a stage: sha256 over the source files it may import and its image's lock.

Equal in a clone, a wheel and an image: it reads the files that lie there, never git.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from tasks.contracts.errors import BadRequestError
from tasks.contracts.stages import STAGE_FACTS, Image, Stage

PACKAGE = Path(__file__).resolve().parents[1]


def source_of(module: str) -> Path | None:
    """Return the file of `tasks.a.b`, or None where there is no such module."""
    parts = module.split(".")[1:]
    folder = PACKAGE.joinpath(*parts)
    if (folder / "__init__.py").is_file():
        return folder / "__init__.py"
    file = folder.with_suffix(".py")
    return file if parts and file.is_file() else None


@cache
def _imported_by(module: str, source: Path) -> frozenset[str]:
    tree = ast.parse(source.read_bytes())
    names: set[str] = set()
    package = module if source.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(name for name in names if name.split(".")[0] == "tasks")


def _with_parents(module: str) -> set[str]:
    parts = module.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts) + 1)}


@cache
def modules_reached(start: str) -> tuple[str, ...]:
    """Return every module of `tasks` that importing `start` can import, sorted."""
    reached: set[str] = set()
    waiting = _with_parents(start)
    while waiting:
        module = waiting.pop()
        source = source_of(module)
        if module in reached or source is None:
            continue
        reached.add(module)
        for name in _imported_by(module, source):
            waiting |= _with_parents(name) - reached
    return tuple(sorted(reached))


def lock_of(image: Image) -> Path:
    """Return the lock file of an image: beside `tasks/` in a clone, inside it in a wheel."""
    name = f"{image.value}.lock"
    for folder in (PACKAGE.parent / "requirements", PACKAGE / "_requirements"):
        if (folder / name).is_file():
            return folder / name
    message = f"code digest: expected requirements/{name} beside {PACKAGE}, found none; reinstall"
    raise BadRequestError(message)


@cache
def code_digest(stage: Stage) -> str:
    """Return the hex sha256 over the stage's sources (by module name) and its lock."""
    digest = hashlib.sha256()
    start = f"tasks.stages.{stage.value}"
    for module in modules_reached(start):
        source = source_of(module)
        if source is not None:
            digest.update(f"{module}\0".encode() + source.read_bytes() + b"\0")
    digest.update(lock_of(STAGE_FACTS[stage].image).read_bytes())
    return digest.hexdigest()
