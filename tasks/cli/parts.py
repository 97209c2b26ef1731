"""A part of the local stack: what to run, when it counts as ready, how to stop it."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from tasks.cli.home import write_private
from tasks.cli.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROBE_SECONDS = 0.5
_SERVER_ERROR = 500


class Status(StrEnum):
    """How a part of the stack is doing."""

    WAITING = "waiting"  # for another part
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"  # it ended by itself and is started again later
    FINISHED = "finished"  # it runs once, and did

    @property
    def settled(self) -> bool:
        """Return whether parts that wait for this one may start: one failure holds up none."""
        return self in {Status.READY, Status.BACKING_OFF, Status.FINISHED}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One program of the stack; parts are stopped in order of `stop_rank`."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = field(default=(), compare=False)  # matters at its first start only
    ready_url: str | None = None  # answers below 500 once ready
    ready_port: int | None = None  # accepts connections once ready
    ready_file: Path | None = None  # is there once ready
    idle_folder: Path | None = None  # ready as well while no version is in it: nothing to load
    stamp: Path | None = None  # runs once; skipped where this file holds `stamp_text`
    stamp_text: str = ""
    stop_rank: int = 0
    polite_seconds: float = 5.0

    @property
    def once(self) -> bool:
        """Return whether the part is a step that ends, not a server."""
        return self.stamp is not None

    def done_before(self) -> bool:
        """Return whether the step was done by an earlier start."""
        stamp = self.stamp
        if stamp is None or not stamp.exists():
            return False
        return stamp.read_bytes() == self.stamp_text.encode()

    def write_stamp(self) -> None:
        """Write down, in one step, that the step is done."""
        if self.stamp is not None:
            write_private(self.stamp, self.stamp_text)

    def is_ready(self) -> bool:
        """Ask the running part; True where there is nothing to ask."""
        if self.ready_url is not None:
            return answers(self.ready_url)
        if self.ready_file is not None:
            return self.ready_file.exists()
        if self.idle_folder is not None and not _has_version(self.idle_folder):
            return True
        return self.ready_port is None or accepts(self.ready_port)


def _has_version(folder: Path) -> bool:
    return folder.is_dir() and any(entry.name.isdigit() for entry in folder.iterdir())


def answers(url: str) -> bool:
    """Say whether a server answers, if only with a refusal."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=PROBE_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code < _SERVER_ERROR
    except (OSError, http.client.HTTPException):  # nobody, or somebody who speaks no HTTP
        return False


def accepts(port: int) -> bool:
    """Say whether something listens on this port of 127.0.0.1."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=PROBE_SECONDS):
            return True
    except OSError:
        return False
