"""`--set NAME=VALUE ..`: settings of a recipe changed for one run of a bench."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any


def changed(settings: Any, changes: Sequence[str]) -> Any:
    """Return the settings (a dataclass) with each `name=value` taken; values are JSON, or plain words."""
    known = {field.name for field in fields(settings)}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in known:
            message = (
                f"--set: expected a setting of {type(settings).__name__}, found {name!r}; there are "
                f"{', '.join(sorted(known))}"
            )
            raise SystemExit(message)
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        settings = replace(settings, **{name: value})
    return settings
