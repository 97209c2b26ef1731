"""Ports on 127.0.0.1: the usual one where it is free, the next free one where it is not."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from tasks.contracts.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOPBACK = "127.0.0.1"
USUAL_PORTS: Mapping[str, int] = MappingProxyType(
    {"airflow": 8080, "mlflow": 5000, "router": 8000, "router-admin": 9901}
)
FIRST_SLOT_PORT = 8500
_TRIES = 500


@dataclass(frozen=True, kw_only=True)
class ChosenPorts:
    """Port by name, and what a person should be told about the choice."""

    ports: Mapping[str, int]
    notes: tuple[str, ...]


def is_free(port: int) -> bool:
    """Say whether a server could listen on this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def next_free(start: int, taken: set[int]) -> int:
    """Return the first free port from `start` on that is not in `taken`, which it joins."""
    for port in range(start, start + _TRIES):
        if port not in taken and is_free(port):
            taken.add(port)
            return port
    message = f"ports: expected a free one in {start}..{start + _TRIES - 1}, found none"
    raise BadRequestError(message)


def choose_ports(wanted: Mapping[str, int], taken: set[int]) -> ChosenPorts:
    """Return a free port for each name, from the wanted one upwards."""
    ports, notes = {}, []
    for name, usual in wanted.items():
        ports[name] = next_free(usual, taken)
        if ports[name] != usual:
            notes.append(f"port {usual} is taken: {name} listens on {ports[name]}")
    return ChosenPorts(ports=ports, notes=tuple(notes))
