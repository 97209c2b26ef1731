"""Ports on 127.0.0.1: the usual one where it is free, the next free one where it is not."""

from __future__ import annotations

import fcntl
import getpass
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from tasks.contracts.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOOPBACK = "127.0.0.1"
USUAL_PORTS: Mapping[str, int] = MappingProxyType(
    {
        "airflow": 8080,
        "mlflow": 5000,
        "router": 8000,
        "router-admin": 9901,
        "shadow": 9911,
        "metrics": 9912,
        "shadow-grpc": 9913,
    }
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


def listener_on(port: int) -> str | None:
    """Return who listens on a port of this machine, in words; None where nobody does."""
    inodes = {inode for table in _TCP_TABLES for inode in _listening(table, port)}
    if not inodes:
        return None
    for folder in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(folder.readlink()) in inodes:
                pid = folder.parts[2]
                command = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ")
                return f"process {pid} ({command.decode(errors='replace').strip():.60})"
    return "a process of another user"


_TCP_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN, _LOCAL, _STATE, _INODE = "0A", 1, 3, 9  # columns of these tables


def _listening(table: Path, port: int) -> Iterator[str]:
    with suppress(OSError):
        for line in table.read_text().splitlines()[1:]:
            columns = line.split()
            local = int(columns[_LOCAL].rpartition(":")[2], 16)
            if local == port and columns[_STATE] == _LISTEN:
                yield f"socket:[{columns[_INODE]}]"


@dataclass(kw_only=True)
class PortBook:
    """Ports promised to the parts of one stack while this process lives.

    A part may listen minutes after its port was chosen: a locked file per port keeps the stacks of
    a user's other checkouts from choosing it meanwhile.
    """

    folder: Path
    _held: list[IO[str]] = field(default_factory=list)

    def next_free(self, start: int) -> int:
        """Promise the first port from `start` on that nobody listens on and nobody was promised."""
        for port in range(start, start + _TRIES):
            if is_free(port) and self._promise(port):
                return port
        message = f"ports: expected a free one in {start}..{start + _TRIES - 1}, found none"
        raise BadRequestError(message)

    def choose(self, wanted: Mapping[str, int]) -> ChosenPorts:
        """Promise a port for each name, from the wanted one upwards."""
        ports, notes = {}, []
        for name, usual in wanted.items():
            ports[name] = self.next_free(usual)
            if ports[name] != usual:
                notes.append(f"port {usual} is taken: {name} listens on {ports[name]}")
        return ChosenPorts(ports=ports, notes=tuple(notes))

    def close(self) -> None:
        """Take back all promises."""
        while self._held:
            self._held.pop().close()

    def _promise(self, port: int) -> bool:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = (self.folder / str(port)).open("a")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return False
        self._held.append(handle)
        return True


def default_folder() -> Path:
    """Return the folder in which this user's stacks promise ports."""
    return Path(tempfile.gettempdir()) / f"headrace-ports-{getpass.getuser()}"
