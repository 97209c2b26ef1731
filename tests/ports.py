"""Ports for the servers of tests."""

from __future__ import annotations

import contextlib
import random
import socket

_given: set[int] = set()


def free_port() -> int:
    """A port that no one listens on and that this process has not given before.

    It lies below the range from which the kernel gives ports to clients, so that no connection
    takes it before its server does.
    """
    while True:
        port = random.randrange(12_000, 30_000)
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port
