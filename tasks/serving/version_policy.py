"""Which version to load or unload next: availability first (availability_preserving_policy.cc)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """Where a managed version stands."""

    NEW = "new"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    GONE = "gone"
    FAILED = "failed"


class Move(Enum):
    """What to do with a version; unloads come before loads of other models."""

    UNLOAD = "unload"
    LOAD = "load"


@dataclass(frozen=True, kw_only=True)
class Managed:
    """A version as the policy sees it; `aspired`: the base path and the config still want it."""

    version: int
    phase: Phase
    aspired: bool


@dataclass(frozen=True, kw_only=True)
class Action:
    """The next step for one model."""

    move: Move
    version: int


def next_action(versions: Sequence[Managed]) -> Action | None:
    """Return the next step: never unload the last ready version before a new one is ready."""
    aspired = [item for item in versions if item.aspired]
    leaving = [item for item in versions if not item.aspired and item.phase is Phase.READY]
    a_new_one_serves = any(item.phase is Phase.READY for item in aspired)
    if leaving and (not aspired or a_new_one_serves or len(leaving) > 1):
        return Action(move=Move.UNLOAD, version=min(item.version for item in leaving))
    waiting = [item.version for item in aspired if item.phase is Phase.NEW]
    return Action(move=Move.LOAD, version=max(waiting)) if waiting else None
