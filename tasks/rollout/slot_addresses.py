"""Where a model's slots listen: by the names of their Services on a cluster, else as `slots.json` says."""

from __future__ import annotations

from pathlib import Path

from tasks.contracts.slot_hosts import slots_text
from tasks.rollout.record import Colour
from tasks.rollout.routes import SlotAddress, parse_slots


def slot_addresses(
    state_dir: Path, model: str, slot_host: str | None
) -> dict[Colour, SlotAddress] | None:
    """Return the slots of a model by colour, None where there is no `slots.json` yet.

    BadRequestError: the file, or the template HEADRACE_SLOT_HOST, says something else.
    """
    if slot_host is not None:
        return parse_slots(slots_text(slot_host, state_dir, model), slot_host)
    file = state_dir / model / "slots.json"
    return parse_slots(file.read_bytes(), str(file)) if file.exists() else None
