"""Ports for the servers of tests."""

from __future__ import annotations

import contextlib
import os
import random
import socket

FIRST, LAST, MOST_WORKERS = 12_000, 30_000, 16
WIDTH = (LAST - FIRST) // (MOST_WORKERS + 1)
_given: set[int] = set()


def free_port() -> int:
    """A port that no one listens on and that this process has not given before.

    It lies below the range from which the kernel gives ports to clients, so that no connection
    takes it before its server does. Each worker of pytest-xdist has a range of its own.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw-1").removeprefix("gw")
    first = FIRST + (int(worker) + 1) % (MOST_WORKERS + 1) * WIDTH
    while True:
        port = random.randrange(first, first + WIDTH)
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port
