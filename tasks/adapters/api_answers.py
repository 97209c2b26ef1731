"""What the Kubernetes API says, for those who need not load its client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.contracts.errors import StoreUnavailableError, bounded


class ApiAwayError(StoreUnavailableError):
    """The API gave no useful answer; a retry may help."""


class GoneError(Exception):
    """The API keeps no changes since that version any more: list anew."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the API said: the HTTP status and the object."""

    status: int
    body: Mapping[str, Any]

    @property
    def words(self) -> str:
        """Return the API's own sentence."""
        return bounded(str(self.body.get("message") or self.body.get("reason") or ""), 300)
