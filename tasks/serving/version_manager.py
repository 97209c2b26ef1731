"""Brings the loaded versions to what is aspired (aspired_versions_manager.cc, basic_manager.cc)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tasks.serving.served_version import ServedVersion
from tasks.serving.session import SavedModelSession
from tasks.serving.status import Code, ServingError, not_found
from tasks.serving.version_policy import Action, Managed, Move, Phase, next_action
from tasks.serving.version_states import State, StateBoard, VersionId, VersionState

log = logging.getLogger("headrace.serve")

Load = Callable[[VersionId, Path], SavedModelSession]


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How often and how wide to load; 0 threads: in the manager's own thread, one by one."""

    max_retries: int = 5
    retry_interval_seconds: float = 60.0
    num_threads: int = 0


@dataclass(kw_only=True)
class _Harness:
    """One managed version. Guarded by the manager's lock."""

    id: VersionId
    path: Path
    phase: Phase = Phase.NEW
    aspired: bool = True
    served: ServedVersion | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def may_be_forgotten(self) -> bool:
        return not self.aspired and self.phase in (Phase.NEW, Phase.GONE, Phase.FAILED)

    def is_leaving(self) -> bool:
        """Say if it will be gone: a ready one can still be kept, with no load and no gap."""
        return not self.aspired and self.phase is not Phase.READY


class VersionManager:
    """Owns the loaded versions. One thread decides; loads may run on others."""

    def __init__(self, load: Load, board: StateBoard, options: LoadOptions) -> None:
        self._load_session = load
        self._board = board
        self._options = options
        self._lock = threading.Condition(threading.RLock())
        self._harnesses: dict[str, dict[int, _Harness]] = {}
        self._requests: dict[str, dict[int, Path]] = {}
        self._serving: dict[str, dict[int, ServedVersion]] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._decide_for_ever, name="manager", daemon=True)

    def start(self, num_initial_threads: int) -> None:
        """Begin, loading the first versions on `num_initial_threads` threads."""
        self.use_threads(num_initial_threads)
        self._thread.start()

    def use_threads(self, num_threads: int | None = None) -> None:
        """Load on `num_threads` threads from now on (default: what the options say)."""
        count = self._options.num_threads if num_threads is None else num_threads
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown(wait=False)
            self._executor = ThreadPoolExecutor(count, "load") if count else None

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """Ask that exactly these versions of a model be served."""
        with self._lock:
            self._requests[name] = dict(versions)
            self._lock.notify_all()

    def borrow(self, name: str, version: int | None) -> ServedVersion:
        """Return a version with one request counted in; None: the highest that is loaded."""
        while True:
            served = self._find(name, version)
            if served.count_in():
                return served

    def _find(self, name: str, version: int | None) -> ServedVersion:
        versions = self._serving.get(name)
        if not versions:
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        elif version is None:
            return versions[max(versions)]
        elif version in versions:
            return versions[version]
        else:
            wanted = f"Specific({name}, {version})"
        raise not_found(f"Servable not found for request: {wanted}")

    def stop(self) -> None:
        """Stop deciding and cancel loads; what is loaded stays until the process ends."""
        with self._lock:
            self._stopping = True
            for versions in self._harnesses.values():
                for harness in versions.values():
                    harness.cancelled.set()
            self._lock.notify_all()
            if self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)

    # Deciding: one thread.

    def _decide_for_ever(self) -> None:
        while True:
            with self._lock:
                self._forget()
                self._take_requests()
                found = self._next()
                if found is None and not self._stopping:
                    self._lock.wait()
                if self._stopping:
                    return
            if found is not None:
                self._act(*found)

    def _forget(self) -> None:
        for name, versions in list(self._harnesses.items()):
            for version, harness in list(versions.items()):
                if harness.may_be_forgotten():
                    del versions[version]
            if not versions:
                del self._harnesses[name]

    def _take_requests(self) -> None:
        for name, versions in list(self._requests.items()):
            present = self._harnesses.get(name, {})
            comes_back = any(
                harness.is_leaving() and version in versions for version, harness in present.items()
            )
            if not comes_back:  # else wait until it is gone
                del self._requests[name]
                self._take_request(name, versions)

    def _take_request(self, name: str, versions: Mapping[int, Path]) -> None:
        present = self._harnesses.setdefault(name, {})
        for version, harness in present.items():
            harness.aspired = version in versions
            if not harness.aspired:
                harness.cancelled.set()
        for version in sorted(set(versions) - set(present)):
            harness = _Harness(id=VersionId(name=name, version=version), path=versions[version])
            present[version] = harness
            self._publish(harness, State.START)
        self._forget()

    def _next(self) -> tuple[_Harness, Action] | None:
        """Return the next step over all models: unloads first, then loads."""
        steps = []
        for versions in self._harnesses.values():
            managed = [
                Managed(version=version, phase=harness.phase, aspired=harness.aspired)
                for version, harness in versions.items()
            ]
            action = next_action(managed)
            if action is not None:
                steps.append((versions[action.version], action))
        steps.sort(key=lambda step: step[1].move is not Move.UNLOAD)
        return steps[0] if steps else None

    def _act(self, harness: _Harness, action: Action) -> None:
        with self._lock:
            if action.move is Move.UNLOAD:
                harness.phase = Phase.UNLOADING
                # Draining may take as long as the slowest request: never in the deciding thread.
                threading.Thread(target=self._unload, args=(harness,), name="unload").start()
                return
            harness.phase = Phase.LOADING
            if self._executor is not None:
                self._executor.submit(self._load, harness)
                return
        self._load(harness)

    # Loading and unloading.

    def _load(self, harness: _Harness) -> None:
        self._publish(harness, State.LOADING)
        try:
            session = self._load_with_retries(harness)
        except ServingError as error:
            log.error("load failed: %s: %s", harness.id, error)  # noqa: TRY400  the text is enough
            self._finish(harness, Phase.FAILED, State.END, error)
            return
        harness.served = ServedVersion(harness.id, session)
        with self._lock:
            versions = {
                **self._serving.get(harness.id.name, {}),
                harness.id.version: harness.served,
            }
            self._serving[harness.id.name] = versions
        log.info("available: %s", harness.id)
        self._finish(harness, Phase.READY, State.AVAILABLE)

    def _load_with_retries(self, harness: _Harness) -> SavedModelSession:
        for attempt in range(self._options.max_retries + 1):
            try:
                session = self._load_session(harness.id, harness.path)
            except ServingError as error:
                failure = error
            except Exception as error:  # noqa: BLE001  a broken model must not end the server
                failure = ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
            else:
                if not harness.cancelled.is_set():
                    return session
                session.close()
                message = "Loading of servable cancelled"
                raise ServingError(Code.CANCELLED, message)
            log.warning("load attempt %d failed: %s: %s", attempt + 1, harness.id, failure)
            last = attempt == self._options.max_retries
            if last or harness.cancelled.wait(self._options.retry_interval_seconds):
                break
        raise failure

    def _unload(self, harness: _Harness) -> None:
        self._publish(harness, State.UNLOADING)
        with self._lock:
            versions = dict(self._serving.get(harness.id.name, {}))
            versions.pop(harness.id.version, None)
            self._serving[harness.id.name] = versions
        if harness.served is not None:
            harness.served.retire()
            harness.served = None
        log.info("unloaded: %s", harness.id)
        self._finish(harness, Phase.GONE, State.END)

    def _finish(
        self, harness: _Harness, phase: Phase, state: State, error: ServingError | None = None
    ) -> None:
        self._publish(harness, state, error)
        with self._lock:
            harness.phase = phase
            self._lock.notify_all()

    def _publish(self, harness: _Harness, state: State, error: ServingError | None = None) -> None:
        self._board.publish(VersionState(id=harness.id, state=state, error=error))
