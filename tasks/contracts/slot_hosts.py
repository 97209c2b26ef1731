"""Slots by the names of their Services: HEADRACE_SLOT_HOST in place of `slots.json`."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import pretty_json

COLOURS = ("blue", "green", "violet")
GRPC_PORT, REST_PORT = 8500, 8501  # TensorFlow Serving's own
MODEL, COLOUR = "{model}", "{colour}"
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def slot_folder(state_dir: Path, model: str, colour: str) -> Path:
    """Return the folder whose versions a slot serves."""
    return state_dir / model / "slots" / colour


def slot_host(template: str, model: str, colour: str) -> str:
    """Return the host of a slot; a template that gives two slots one host is refused."""
    host = template.replace(MODEL, model).replace(COLOUR, colour)
    if MODEL not in template or COLOUR not in template or not _HOST.fullmatch(host):
        message = (
            f"HEADRACE_SLOT_HOST: expected a host name with {MODEL} and {COLOUR} in it, such as "
            f"headrace-{MODEL}-{COLOUR}.prod.svc, found {template!r:.120}"
        )
        raise BadRequestError(message)
    return host


def slots_text(template: str, state_dir: Path, model: str) -> str:
    """Return what `slots.json` (`slots/1`) says of slots that are found by name."""
    rows = {
        colour: {
            "host": slot_host(template, model, colour),
            "grpc": GRPC_PORT,
            "rest": REST_PORT,
            "directory": str(slot_folder(state_dir, model, colour)),
        }
        for colour in COLOURS
    }
    return pretty_json({"format": "slots/1", "model": model, "slots": rows})
