"""What every version of every model is doing, remembered for the life of the process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from tasks.serving.status import ServingError


class State(IntEnum):
    """ModelVersionStatus.State."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, kw_only=True, order=True)
class VersionId:
    """One version of one model."""

    name: str
    version: int

    def __str__(self) -> str:
        """Return the form that TensorFlow Serving's messages use."""
        return f"{{name: {self.name} version: {self.version}}}"


@dataclass(frozen=True, kw_only=True)
class VersionState:
    """A row of GetModelStatus; END with an error: the load failed, without: it was unloaded."""

    id: VersionId
    state: State
    error: ServingError | None = None


class Watch:
    """The rows published since this watch began."""

    def __init__(self, board: StateBoard) -> None:
        self._board = board
        self.rows: dict[str, dict[int, VersionState]] = {}

    def record(self, row: VersionState) -> None:
        """Keep the newest row of a version."""
        self.rows.setdefault(row.id.name, {})[row.id.version] = row

    def wait_until_settled(self, names: Iterable[str]) -> dict[VersionId, VersionState]:
        """Wait, without limit, until some version of each name is AVAILABLE or END.

        Returns the version that decided for each name; nothing if the board was closed.
        """
        return self._board.wait_for(self, tuple(names))


class StateBoard:
    """All rows, and the watches that follow them. Rows never vanish."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._closed = False
        self._all = Watch(self)
        self._watches: list[Watch] = [self._all]

    def publish(self, row: VersionState) -> None:
        """Make `row` the newest of its version and wake who waits."""
        with self._changed:
            for watch in self._watches:
                watch.record(row)
            self._changed.notify_all()

    def rows(self, name: str) -> list[VersionState]:
        """Return the rows of a model, newest version first."""
        with self._changed:
            rows = self._all.rows.get(name, {})
            return [rows[version] for version in sorted(rows, reverse=True)]

    def row(self, version: VersionId) -> VersionState | None:
        """Return the row of one version, or None if it was never seen."""
        with self._changed:
            return self._all.rows.get(version.name, {}).get(version.version)

    def watch_all(self) -> Watch:
        """Return the watch that saw everything since the process began."""
        return self._all

    def watch_from_now(self) -> Watch:
        """Return a watch that does not know what was published before."""
        with self._changed:
            watch = Watch(self)
            self._watches.append(watch)
            return watch

    def forget(self, watch: Watch) -> None:
        """Stop recording for a watch that is done."""
        with self._changed:
            self._watches.remove(watch)

    def wait_for(self, watch: Watch, names: tuple[str, ...]) -> dict[VersionId, VersionState]:
        """Implement `Watch.wait_until_settled`."""
        with self._changed:
            while not self._closed:
                settled = settled_versions(watch.rows, names)
                if settled is not None:
                    return settled
                self._changed.wait()
        return {}

    def close(self) -> None:
        """Let every waiting thread go: the process is ending."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def settled_versions(
    rows: Mapping[str, Mapping[int, VersionState]], names: Iterable[str]
) -> dict[VersionId, VersionState] | None:
    """Return, for each name, its newest version that is AVAILABLE or END; None if one has none."""
    settled: dict[VersionId, VersionState] = {}
    for name in names:
        versions = rows.get(name, {})
        for version in sorted(versions, reverse=True):
            if versions[version].state in (State.AVAILABLE, State.END):
                settled[versions[version].id] = versions[version]
                break
        else:
            return None
    return settled


def why_not_available(settled: Mapping[VersionId, VersionState], noun: str) -> str | None:
    """Return TensorFlow Serving's sentence on versions that failed, or None if none did."""
    failed = [row for _, row in sorted(settled.items()) if row.state is not State.AVAILABLE]
    if not failed:
        return None
    listed = "".join(
        f"{{{row.id}{f' due to error: {row.error}' if row.error else ''}}}, " for row in failed
    )
    return f"{len(failed)} {noun} did not become available: {{{listed}}}"
