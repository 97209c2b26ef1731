"""What a candidate does to its users, and the memory limit that a leak ends at."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.chaos.slot import Ill
from tests.integration.chaos.world import Part, Protocol

MEMORY_BYTES = 400 * 1024 * 1024
CGROUPS = Path("/sys/fs/cgroup/memory")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How a candidate begins to harm."""

    name: str
    inject: Callable[[Part], None]
    limits_memory: bool = False
    protocol: Protocol = "rest"


def _told(ill: Ill) -> Callable[[Part], None]:
    return lambda part: part.tell(ill.value)


def _crash(part: Part) -> None:
    part.process.send_signal(signal.SIGKILL)


REST_FAULTS = (
    Fault(name="crashes", inject=_crash),
    Fault(name="answers 500", inject=_told(Ill.ERRORS)),
    Fault(name="answers 500 after the limit of one try", inject=_told(Ill.LATE_ERRORS)),
    Fault(name="resets", inject=_told(Ill.RESETS)),
    Fault(name="hangs", inject=_told(Ill.HANGS)),
    Fault(name="protocol-invalid bytes", inject=_told(Ill.GARBAGE)),
    Fault(name="10 x slower", inject=_told(Ill.SLOW)),
    Fault(name="killed by memory", inject=_told(Ill.LEAKS), limits_memory=True),
)
GRPC_FAULTS = tuple(
    Fault(name=f"gRPC: {name}", inject=inject, limits_memory=limits_memory, protocol="grpc")
    for name, inject, limits_memory in (
        ("crashes", _crash, False),
        ("answers UNAVAILABLE", _told(Ill.UNAVAILABLE), False),
        ("answers INTERNAL", _told(Ill.ERRORS), False),
        ("answers INTERNAL after the limit of one try", _told(Ill.LATE_ERRORS), False),
        ("resets", _told(Ill.RESETS), False),
        ("hangs", _told(Ill.HANGS), False),
        ("protocol-invalid bytes", _told(Ill.GARBAGE), False),
        ("10 x slower", _told(Ill.SLOW), False),
        ("killed by memory", _told(Ill.LEAKS), True),
    )
)
FAULTS = (*REST_FAULTS, *GRPC_FAULTS)


@contextmanager
def limited_memory(part: Part) -> Iterator[str]:
    """Let the kernel end the part when it grows beyond the limit; give by what means.

    Where no memory cgroup can be made, an allocation beyond RLIMIT_AS is refused, and it aborts.
    """
    folder = CGROUPS / f"headrace-chaos-{part.process.pid}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(MEMORY_BYTES))
        (folder / "cgroup.procs").write_text(str(part.process.pid))
        means = "SIGKILL by the kernel, memory cgroup"
    except OSError:
        resource.prlimit(part.process.pid, resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        means = "abort at RLIMIT_AS"
    try:
        yield means
    finally:
        part.kill()
        with contextlib.suppress(OSError):
            folder.rmdir()
