"""Three slots for every model that has a state folder: their ports, folders and `slots.json`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.cli.parts import Part
from tasks.cli.ports import FIRST_SLOT_PORT, LOOPBACK, PortBook
from tasks.contracts.json_types import pretty_json
from tasks.contracts.requests import MODEL_NAME
from tasks.contracts.state_file import replace_text
from tasks.rollout.envoy import router_files
from tasks.rollout.record import Colour

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SLOTS_FILE = "slots.json"
STOP_RANK = 3
DRAIN_SECONDS = 3


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One model server: its ports on 127.0.0.1 and the folder of its versions."""

    model: str
    colour: Colour
    grpc: int
    rest: int
    folder: Path


@dataclass(kw_only=True)
class SlotBoard:
    """Hands out slots to models as they appear; a model keeps its ports while the stack runs."""

    state: Path
    book: PortBook
    _slots: dict[str, tuple[Slot, ...]] = field(default_factory=dict)

    def slots(self) -> list[Slot]:
        """Return the slots of all models; those of new models are made, and written down."""
        for model in models_in(self.state):
            if model not in self._slots:
                self._slots[model] = tuple(self._new_slot(model, colour) for colour in Colour)
                write_slots(self.state / model / SLOTS_FILE, model, self._slots[model])
        return [slot for slots in self._slots.values() for slot in slots]

    def _new_slot(self, model: str, colour: Colour) -> Slot:
        folder = self.state / model / "slots" / colour.value
        folder.mkdir(parents=True, exist_ok=True)
        return Slot(
            model=model,
            colour=colour,
            grpc=self.book.next_free(FIRST_SLOT_PORT),
            rest=self.book.next_free(FIRST_SLOT_PORT),
            folder=folder,
        )


def models_in(state: Path) -> list[str]:
    """Return the models that have a folder; the router's own is not one."""
    router = router_files(state).folder
    return sorted(
        folder.name
        for folder in state.iterdir()
        if folder.is_dir() and folder != router and MODEL_NAME.fullmatch(folder.name)
    )


def write_slots(path: Path, model: str, slots: Iterable[Slot]) -> None:
    """Write `slots.json` (`slots/1`), which stages, keeper and Envoy read."""
    rows: Mapping[str, Mapping[str, object]] = {
        slot.colour.value: {"grpc": slot.grpc, "rest": slot.rest, "directory": str(slot.folder)}
        for slot in slots
    }
    replace_text(path, pretty_json({"format": "slots/1", "model": model, "slots": rows}))


def slot_part(slot: Slot, environment: Mapping[str, str]) -> Part:
    """Return a slot's server; it opens its ports when it has loaded its first version."""
    flags = {
        "model_name": slot.model,
        "model_base_path": slot.folder,
        "port": slot.grpc,
        "rest_api_port": slot.rest,
        "bind_address": LOOPBACK,
        "drain_seconds": DRAIN_SECONDS,
        "num_load_threads": 1,  # a load never holds up an unload
        "max_num_load_retries": 0,  # a bundle that does not load is told at once, not in 5 minutes
    }
    return Part(
        name=f"{slot.model}-{slot.colour.value}",
        command=(
            *(sys.executable, "-m", "tasks.cli", "serve"),
            *(f"--{name}={value}" for name, value in flags.items()),
        ),
        environment=environment,
        ready_port=slot.rest,
        idle_folder=slot.folder,
        stop_rank=STOP_RANK,
    )
