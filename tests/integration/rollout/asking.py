"""Users who ask in threads of their own until they are told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def in_threads(users: Sequence[Callable[[], None]], stop: threading.Event) -> Iterator[None]:
    """Let each ask until `stop` is set, which the end of the block does."""
    threads = [threading.Thread(target=ask) for ask in users]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
