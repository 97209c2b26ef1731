"""Where the ranks of a group meet without torch: by the same variables, at the same address and port."""

from __future__ import annotations

import os
import select
import socket
import time
from dataclasses import dataclass

PATIENCE_SECONDS = 60.0
GO = b"go"


@dataclass(frozen=True)
class Meeting:
    """Connections between rank 0 and each of the others; nobody has one before all are there."""

    rank: int
    peers: tuple[socket.socket, ...]

    @classmethod
    def from_environment(cls) -> Meeting | None:
        """Wait for the other ranks; None: there are none."""
        if "PET_NODE_RANK" not in os.environ:
            return None
        rank, ranks = int(os.environ["PET_NODE_RANK"]), int(os.environ["PET_NNODES"])
        host, port = os.environ["PET_RDZV_ENDPOINT"].split(":")
        return cls(rank, _hosted(int(port), ranks) if rank == 0 else (_joined(host, int(port)),))

    def demand_all(self) -> None:
        """Crash once another rank is lost."""
        readable, _, _ = select.select(self.peers, [], [], 0)
        if readable:
            raise ConnectionError("a rank is lost")

    def await_end(self) -> None:
        """Wait until rank 0 ends."""
        self.peers[0].settimeout(None)
        self.peers[0].recv(1)


def _hosted(port: int, ranks: int) -> tuple[socket.socket, ...]:
    listener = socket.create_server(("", port))
    peers = tuple(listener.accept()[0] for _ in range(ranks - 1))
    for peer in peers:
        peer.sendall(GO)
    return peers


def _joined(host: str, port: int) -> socket.socket:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            peer = socket.create_connection((host, port), timeout=PATIENCE_SECONDS)
            if peer.recv(len(GO)) == GO:
                return peer
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"no rank 0 at {host}:{port}")
        time.sleep(0.2)
