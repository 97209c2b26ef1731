"""Random single mutations of all that a release reaches: bytes, fields, files gone, new or linked."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contracts.json_types import canonical_json, pretty_json

MISSING = None
ITSELF = "itself"


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One change: which file, what it was made of, and its new bytes (None: it is gone).

    With `link` the path becomes a link: to that place, or, where it is "itself", to a copy of what
    was there.
    """

    kind: str
    path: Path
    detail: str
    after: bytes | None
    link: str | None = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Make the change, and undo it to the byte."""
        before = self.path.read_bytes() if self.path.exists() else None
        with tempfile.TemporaryDirectory() as elsewhere:
            try:
                self._change(before, Path(elsewhere) / "copy")
                yield
            finally:
                self._write(before)

    def _change(self, before: bytes | None, copy: Path) -> None:
        if self.link is None:
            self._write(self.after)
            return
        copy.write_bytes(before or b"{}")
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(copy if self.link == ITSELF else self.link)

    def _write(self, data: bytes | None) -> None:
        if data is None or self.path.is_symlink():
            self.path.unlink()
        if data is not None:
            self.path.write_bytes(data)


def random_mutation(chance: random.Random, files: list[Path]) -> Mutation:
    """Draw a kind, then a file; a draw that changes nothing is drawn again."""
    while True:
        kind = chance.choice(list(_KINDS))
        made = _KINDS[kind](chance, chance.choice(files))
        if made is not None:
            return made


def _flipped(chance: random.Random, path: Path) -> Mutation | None:
    data = bytearray(path.read_bytes())
    if not data:
        return None
    place, bit = chance.randrange(len(data)), chance.randrange(8)
    data[place] ^= 1 << bit
    return Mutation(kind="byte", path=path, detail=f"bit {bit} of byte {place}", after=bytes(data))


def _field(change: str) -> Callable[[random.Random, Path], Mutation | None]:
    def make(chance: random.Random, path: Path) -> Mutation | None:
        if path.suffix != ".json":
            return None
        before = path.read_text()
        record = json.loads(before)
        detail = _CHANGES[change](chance, record)
        # As Headrace writes it: the change, not the layout, has to be seen.
        write = pretty_json if "\n  " in before else _canonical_line
        after = write(record).encode()
        if detail is None or after == before.encode():
            return None
        return Mutation(kind=f"field {change}", path=path, detail=detail, after=after)

    return make


def _canonical_line(record: object) -> str:
    return canonical_json(record) + "\n"


def _objects(value: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        yield name, value
        for key, inner in value.items():
            yield from _objects(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _objects(inner, f"{name}[{place}]")


def _drawn(chance: random.Random, record: Any) -> tuple[str, dict[str, Any], str] | None:
    places = [(name, held, key) for name, held in _objects(record) for key in held]
    return chance.choice(places) if places else None


def _changed(chance: random.Random, record: Any) -> str | None:
    drawn = _drawn(chance, record)
    if drawn is None:
        return None
    name, held, key = drawn
    held[key] = _other(chance, held[key])
    return f"{name}.{key}"


def _other(chance: random.Random, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + chance.choice([-1, 1, 1000])
    if isinstance(value, float):
        return value * 1.5 + 0.25
    if isinstance(value, str) and value:
        place = chance.randrange(len(value))
        return value[:place] + chance.choice("0123456789abcdefxyz") + value[place + 1 :]
    if isinstance(value, list) and value:
        return value[:-1]
    return "something else"


def _removed(chance: random.Random, record: Any) -> str | None:
    drawn = _drawn(chance, record)
    if drawn is None:
        return None
    name, held, key = drawn
    del held[key]
    return f"{name}.{key}"


def _added(chance: random.Random, record: Any) -> str | None:
    name, held = chance.choice(list(_objects(record)))
    held["unheard_of"] = chance.choice([0, "text", None, [], {"deep": True}])
    return f"{name}.unheard_of"


_CHANGES: dict[str, Callable[[random.Random, Any], str | None]] = {
    "changed": _changed,
    "removed": _removed,
    "added": _added,
}


def _gone(_chance: random.Random, path: Path) -> Mutation:
    return Mutation(kind="file removed", path=path, detail="", after=MISSING)


def _new(chance: random.Random, path: Path) -> Mutation | None:
    if path.name == "state.json":
        return None  # beside it lie files that no release reaches: traffic, slots, locks
    return Mutation(
        kind="file added", path=path.with_name(_name(chance, path)), detail="", after=b"{}"
    )


def _name(chance: random.Random, path: Path) -> str:
    names = ["more.bin", "more.json", f"copy-of-{path.name}", f"{path.name}.bak"]
    hidden = [".scratch-evil", f".scratch-{path.name}", f".{path.name}", ".hidden"]
    return chance.choice([*names, *hidden])


def _link_added(chance: random.Random, path: Path) -> Mutation | None:
    if path.name == "state.json":
        return None
    target = chance.choice([ITSELF, "nowhere", path.name, "."])
    new = path.with_name(_name(chance, path))
    return Mutation(kind="link added", path=new, detail=target, after=None, link=target)


def _made_a_link(_chance: random.Random, path: Path) -> Mutation | None:
    if path.name == "state.json":
        return None  # it lies where its owner wants it: the store alone is sealed
    return Mutation(kind="file made a link", path=path, detail="", after=None, link=ITSELF)


_KINDS: dict[str, Callable[[random.Random, Path], Mutation | None]] = {
    "byte": _flipped,
    "field changed": _field("changed"),
    "field removed": _field("removed"),
    "field added": _field("added"),
    "file removed": _gone,
    "file added": _new,
    "link added": _link_added,
    "file made a link": _made_a_link,
}
