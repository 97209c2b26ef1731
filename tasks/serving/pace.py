"""When a run may keep the caller's thread: no hand-over, but TensorFlow cannot interrupt it then.

A run in the caller's thread takes 14 us, one on TensorFlow's pool 30-65 us; only the second obeys
`timeout_in_ms`. So a deadline goes to TensorFlow only where it could matter: for a size of input
not seen yet, or where it is closer than `MARGIN` times the slowest recent run of that size.
"""

from __future__ import annotations

MARGIN = 20.0
FORGETTING = 0.99  # per run: one slow run long ago does not count for ever


class Pace:
    """Slowest recent run in seconds, by the power of two of the input's bytes."""

    __slots__ = ("_slowest",)

    def __init__(self) -> None:
        self._slowest: dict[int, float] = {}

    def may_run_unlimited(self, num_bytes: int, timeout_seconds: float) -> bool:
        """Say whether a run of `num_bytes` is certain enough to end long before its deadline."""
        slowest = self._slowest.get(num_bytes.bit_length())
        return slowest is not None and slowest * MARGIN < timeout_seconds

    def saw(self, num_bytes: int, seconds: float) -> None:
        """Remember how long a run took."""
        size = num_bytes.bit_length()
        faded = self._slowest.get(size, 0.0) * FORGETTING
        self._slowest[size] = max(faded, seconds)
