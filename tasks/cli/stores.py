"""The artifact store of a home."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.object_store import ObjectStore

if TYPE_CHECKING:
    from tasks.cli.home import Home


def open_store(home: Home) -> ArtifactStore:
    """Return the store of this home."""
    return ArtifactStore(ObjectStore(home.store_url), cache=home.cache)
