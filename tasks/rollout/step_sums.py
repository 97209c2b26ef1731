"""What the judge's numbers are made of, summed up line by line: no step is ever in memory.

Kept are: of each outcome 17 bytes (three times as many while they are sorted), of each user its
name and two numbers, and how often each time (in whole microseconds) was measured.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from tasks.rollout.grpc_faults import is_servers_fault
from tasks.statistics.user_means import UserSums


class Outcomes:
    """Outcomes by request id, each taken once; of several with one id the last one counts."""

    def __init__(self, outcomes: Iterable[Mapping[str, Any]]) -> None:
        """Read them all: `request_id` and `hit` of each."""
        keys, hits = array("Q"), array("d")
        for line in outcomes:
            keys.append(_key(line["request_id"]))
            hits.append(float(line["hit"]))
        unsorted = np.frombuffer(keys, dtype=np.uint64)
        order = np.argsort(unsorted, kind="stable")
        ordered = unsorted[order]
        last = np.append(ordered[1:] != ordered[:-1], values=True)[: len(ordered)]
        self._keys: array[int] = array("Q", ordered[last].tobytes())
        self._hits: array[float] = array("d", np.frombuffer(hits)[order][last].tobytes())
        self._taken = bytearray(len(self._keys))

    def knows(self, request_id: str) -> bool:
        """Return whether there is an outcome of this id, taken or not."""
        return self._place(request_id) is not None

    def take(self, request_id: str) -> float | None:
        """Return the outcome of an id the first time; None later, and where there is none."""
        place = self._place(request_id)
        if place is None or self._taken[place]:
            return None
        self._taken[place] = True
        return self._hits[place]

    def _place(self, request_id: str) -> int | None:
        key = _key(request_id)
        place = bisect_left(self._keys, key)
        return place if place < len(self._keys) and self._keys[place] == key else None


def _key(request_id: str) -> int:
    return int.from_bytes(blake2b(str(request_id).encode(), digest_size=8).digest(), "little")


@dataclass(kw_only=True)
class VariantSums:
    """Requests of the users of one variant.

    `colour` is the candidate's, None for stable, whose slot is always asked. Rates and times are of
    requests that met the slot: what an ejection sends to stable at once says nothing about the
    candidate but that it was ejected. Neither does a request that stable, asked last, answers no
    better: a client's own fault, whose four tries take their time.
    """

    colour: str | None
    per_try_timeout_ms: float
    users: UserSums = field(default_factory=UserSums)
    times: Counter[float] = field(default_factory=Counter)  # ms -> requests
    requests: int = 0
    not_asked: int = 0
    stable_too: int = 0
    failed: int = 0
    fell_back: int = 0
    slow: int = 0
    answered: int = 0

    def add(self, line: Mapping[str, Any], outcome: float | None) -> None:
        """Count one exposure."""
        self.users.add(line["user"], outcome)
        self.requests += 1
        elsewhere = self.colour is not None and line["slot"] not in {self.colour, None}
        if elsewhere and line["attempts"] <= 1:
            self.not_asked += 1
        elif elsewhere and not is_good(line):
            self.stable_too += 1
        else:
            self._add_told(line, elsewhere=elsewhere)

    def _add_told(self, line: Mapping[str, Any], *, elsewhere: bool) -> None:
        """Count a request that says something about the slot."""
        self.times[float(line["ms"])] += 1
        if is_failure(line):
            self.failed += 1
            return
        slow = line["ms"] >= self.per_try_timeout_ms
        self.slow += slow
        self.fell_back += elsewhere and not slow
        self.answered += not elsewhere


def is_good(line: Mapping[str, Any]) -> bool:
    """Return whether the user got what was asked for: neither an error nor a refusal."""
    if line["grpc_status"] is not None:
        return int(line["grpc_status"]) == 0
    return int(line["code"]) < 400


def is_failure(line: Mapping[str, Any]) -> bool:
    """Return whether the user got no answer: a server's error, not the client's own mistake."""
    if line["grpc_status"] is not None:
        return is_servers_fault(int(line["grpc_status"]))
    return int(line["code"]) >= 500
