"""Who a step's users are: how Envoy tells them from the others, and how the log says it again.

Envoy's consistent-hashing matcher takes the user id's hash modulo the number of buckets; routes see
nothing but headers, so that the time comes to them as one, which Envoy sets before it routes. The
user does too, since an id given twice would be hashed as both and logged as the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tasks.rollout.assignment import NUM_BUCKETS, seed_of, seeded_bucket
from tasks.rollout.record import StateRecord

USER_HEADER = "x-headrace-user"  # `x-user-id`, the first one where there are several
NOW_HEADER = "x-headrace-now"  # whole seconds since 1970
# In the log, of a step's users: what no bucket could have brought to the candidate is in neither arm.
NEITHER = "neither"
_TYPE = "type.googleapis.com/envoy"
_HASHING = f"{_TYPE}.extensions.matching.input_matchers.consistent_hashing.v3.ConsistentHashing"
_HEADER = f"{_TYPE}.type.matcher.v3.HttpRequestHeaderMatchInput"
# Envoy's expressions are of bytes: these are printable UTF-8. What is not would be logged as another id.
_NEXT = r"[\x80-\xbf]"
_UTF8 = "|".join(
    (
        r"[\x20-\x7e]",
        rf"[\xc2-\xdf]{_NEXT}",
        rf"\xe0[\xa0-\xbf]{_NEXT}",
        rf"[\xe1-\xec\xee\xef]{_NEXT}{{2}}",
        rf"\xed[\x80-\x9f]{_NEXT}",
        rf"\xf0[\x90-\xbf]{_NEXT}{{2}}",
        rf"[\xf1-\xf3]{_NEXT}{{3}}",
        rf"\xf4[\x80-\x8f]{_NEXT}{{2}}",
    )
)
_NAMED = {"safe_regex": {"google_re2": {}, "regex": f"({_UTF8})+"}}


@dataclass(frozen=True, kw_only=True)
class StepUsers:
    """The users of a step; in the log as `<seed>:<share>:<expiry>`."""

    seed: int
    share: int  # of the 10,000 buckets
    expires_at: int  # seconds since 1970: from then on the candidate has no users

    @classmethod
    def of(cls, record: StateRecord) -> StepUsers:
        """Return those of the step in progress."""
        expires_at = math.ceil(record.lease.expires_at)
        return cls(
            seed=seed_of(record.salt or ""), share=record.status.share, expires_at=expires_at
        )

    @classmethod
    def parse(cls, text: str) -> StepUsers:
        """Read them from the log; ValueError where it says something else."""
        seed, share, expires_at = map(int, text.split(":"))
        return cls(seed=seed, share=share, expires_at=expires_at)

    def __str__(self) -> str:
        """Return them for the log."""
        return f"{self.seed}:{self.share}:{self.expires_at}"

    def bucket_of(self, user_id: str) -> int:
        """Return the bucket 0..9999 of a user."""
        return seeded_bucket(self.seed, user_id)

    def variant_of(self, bucket: int) -> str:
        """Return the arm of a bucket."""
        return "candidate" if bucket < self.share else "stable"

    def predicate(self) -> dict[str, Any]:
        """Return Envoy's predicate of a somebody whose bucket lies below the share."""
        above = {
            "@type": _HASHING,
            "threshold": self.share,
            "modulo": NUM_BUCKETS,
            "seed": str(self.seed),  # a JSON number is exact up to 2^53
        }
        bucket_above = {"custom_match": {"name": "bucket", "typed_config": above}}
        return {"not_matcher": header_is(USER_HEADER, bucket_above)}

    def before_expiry(self) -> dict[str, Any]:
        """Return the header match of a route that ends with the lease."""
        return {"name": NOW_HEADER, "range_match": {"start": 0, "end": self.expires_at}}


def somebody() -> dict[str, Any]:
    """Return Envoy's predicate of a request with a user id: without one there is no bucket."""
    return header_is(USER_HEADER, {"value_match": _NAMED})


def header_is(name: str, match: dict[str, Any]) -> dict[str, Any]:
    """Return Envoy's predicate of one request header."""
    kind = {"@type": _HEADER, "header_name": name}
    return {"single_predicate": {"input": {"name": name, "typed_config": kind}, **match}}
