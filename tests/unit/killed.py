"""End a process at each of its file operations, one after the other: nothing is left to chance."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from itertools import count

# Raised by Python before the operation: dying there is dying between two of them.
OPERATIONS = frozenset(
    {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
)
DIED = 77


def deaths(act: Callable[[], object], start: int = 1) -> Iterator[int]:
    """Run `act` in a fork that dies at its first, second, .. file operation, until it lives on.

    The caller makes the world new before it asks for the next death. The last run, which nothing
    ended, is not given.
    """
    for operation in count(start):
        if _dies(act, operation):
            yield operation
        else:
            return


def _dies(act: Callable[[], object], operation: int) -> bool:
    child = os.fork()
    if child == 0:
        _live_until(operation, act)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, DIED}, f"the act itself failed with {code}"
    return code == DIED


def _live_until(operation: int, act: Callable[[], object]) -> None:
    seen = 0

    def hook(event: str, _arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in OPERATIONS:
            seen += 1
            if seen == operation:
                os._exit(DIED)  # no finally, no flush: as after SIGKILL

    sys.addaudithook(hook)
    try:
        act()
    except BaseException:  # noqa: BLE001  the parent is told by the code
        os._exit(1)
    os._exit(0)
