"""What a router's keeper last routed, kept beside Envoy's files for the keeper's next life."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import check_format, parse_object, pretty_json
from tasks.contracts.state_file import replace_text
from tasks.rollout.envoy import RouterFiles
from tasks.rollout.record import Colour, StateRecord
from tasks.rollout.routes import RoutedModel, SlotAddress
from tasks.rollout.withheld import Withheld


def keep_routed(
    files: RouterFiles, models: Iterable[RoutedModel], withheld: Mapping[str, Withheld]
) -> None:
    """Replace what is kept, also of what no record holds yet; before Envoy is told the same."""
    kept = {
        model.name: {
            "record": replace(model.record, entries=()).to_text(),
            "slots": {colour.value: asdict(slot) for colour, slot in model.slots.items()},
        }
        for model in models
    }
    waiting = {model: one.as_json() for model, one in withheld.items()}
    text = pretty_json({"format": "last_routed/1", "models": kept, "withheld": waiting})
    replace_text(files.last_routed, text, durable=False)


def last_routed(files: RouterFiles, model: str) -> RoutedModel | None:
    """Return a model as it was last routed, None where nothing of it is kept.

    BadRequestError: the file says something else. OSError: it cannot be read.
    """
    where = str(files.last_routed)
    try:
        one = _kept(files, "models").get(model)
        if one is None:
            return None
        slots = {Colour(colour): SlotAddress(**slot) for colour, slot in one["slots"].items()}
        return RoutedModel(record=StateRecord.parse(one["record"], where), slots=slots)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{where}: expected models with record and slots, found: {error!r}"
        raise BadRequestError(message) from error


def last_withheld(files: RouterFiles, model: str) -> Withheld | None:
    """Return what was decided of a model and not written then, None where nothing was.

    BadRequestError: the file says something else. OSError: it cannot be read.
    """
    try:
        one = _kept(files, "withheld").get(model)
        return None if one is None else Withheld.parse(one)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        message = f"{files.last_routed}: expected what waits to be written, found: {error!r}"
        raise BadRequestError(message) from error


def _kept(files: RouterFiles, part: str) -> Any:
    where = str(files.last_routed)
    try:
        kept: Any = parse_object(files.last_routed.read_bytes(), where)
    except FileNotFoundError:
        return {}
    check_format(kept, "last_routed", 1, where)
    return kept.get(part, {})  # a keeper before this one kept no decisions


def is_routed(files: RouterFiles, model: str) -> bool:
    """Return whether Envoy's routes name a model. OSError: they cannot be read."""
    try:
        routes: Any = parse_object(files.routes.read_bytes(), str(files.routes))
        tables = routes["resources"]
        return any(host["name"] == model for one in tables for host in one["virtual_hosts"])
    except (FileNotFoundError, BadRequestError, KeyError, TypeError):
        return False  # no routes that Envoy could have taken
