"""Ports for the servers of tests."""

from __future__ import annotations

import contextlib
import os
import random
import socket

FIRST, LAST = 12_000, 30_000
_given: set[int] = set()


def free_port() -> int:
    """A port that no one listens on and that this process has not given before.

    It lies below the range from which the kernel gives ports to clients, so that no connection
    takes it before its server does. Each worker of pytest-xdist has a range of its own.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    width = (LAST - FIRST) // workers
    first = FIRST + worker % workers * width  # the number grows where a worker is replaced
    for port in random.sample(range(first, first + width), width):
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port
    raise RuntimeError(f"expected a port of {first} to {first + width - 1}, all were given before")
