"""The cluster's nodes, asked for while Airflow is asked what is known of the task."""

from __future__ import annotations

import threading
import time

from headrace_airflow.pod_api import Patience, Pod, PodApi, SharedConnection

FRESH_SECONDS = 5.0  # an older list is asked for again


class NodesAhead:
    """Connects and lists in a thread of its own; whoever waited for something else asks anew."""

    def __init__(self, namespace: str, shared: SharedConnection) -> None:
        self._api = PodApi(namespace, Patience(seconds=0), shared.connected, shared.forget)
        self._listed: tuple[list[Pod] | None] | None = None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._list, daemon=True, name="nodes-ahead")
        self._thread.start()

    def take(self, api: PodApi) -> list[Pod] | None:
        """Return the nodes, or None where `PodApi.nodes` does; once, and only if fresh."""
        self._thread.join()  # bounded by the API's own time limits
        listed, self._listed = self._listed, None
        if listed is None or time.monotonic() - self._began > FRESH_SECONDS:
            return api.nodes()
        return listed[0]

    def _list(self) -> None:
        try:
            self._listed = (self._api.nodes(),)
        except Exception:  # noqa: BLE001  asked again, with patience and in its own words
            self._listed = None
