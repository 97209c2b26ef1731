"""Names of the entries of a served model that more than one part of Headrace asks by."""

from __future__ import annotations

SERVING_DEFAULT = "serving_default"  # every model has it: history and steps_ago, no types
NEXT_EVENT = "next_event"  # of models that read types: the next item, and the next event's type
