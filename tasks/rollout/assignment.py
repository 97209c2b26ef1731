"""User -> bucket: XXH64 of the user id, seeded by the rollout's salt, as Envoy's routes compute it.

Envoy's input matcher `consistent_hashing` takes XXH64 of a header modulo a number; specification:
https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

NUM_BUCKETS = 10_000
_MASK = 0xFFFFFFFFFFFFFFFF
_PRIMES = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH = _PRIMES
_STRIPE = 32  # bytes


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK


def _round(lane: int, word: int) -> int:
    return (_rotate((lane + word * _SECOND) & _MASK, 31) * _FIRST) & _MASK


def _stripes(data: bytes, seed: int) -> int:
    lanes = [seed + _FIRST + _SECOND, seed + _SECOND, seed, seed - _FIRST]
    for words in struct.iter_unpack("<4Q", data):
        lanes = [_round(lane, word) for lane, word in zip(lanes, words, strict=True)]
    digest = sum(_rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True))
    for lane in lanes:
        digest = ((digest ^ _round(0, lane)) * _FIRST + _FOURTH) & _MASK
    return digest


def xxh64(data: bytes, seed: int = 0) -> int:
    """Return XXH64 of `data`, 0 to 2^64 - 1."""
    whole = len(data) - len(data) % _STRIPE
    digest = _stripes(data[:whole], seed) if whole else seed + _FIFTH
    digest = (digest + len(data)) & _MASK
    at = whole
    while at + 8 <= len(data):
        (word,) = struct.unpack_from("<Q", data, at)
        digest = (_rotate(digest ^ _round(0, word), 27) * _FIRST + _FOURTH) & _MASK
        at += 8
    if at + 4 <= len(data):
        (half,) = struct.unpack_from("<I", data, at)
        digest = (_rotate(digest ^ (half * _FIRST & _MASK), 23) * _SECOND + _THIRD) & _MASK
        at += 4
    for byte in data[at:]:
        digest = (_rotate(digest ^ (byte * _FIFTH & _MASK), 11) * _FIRST) & _MASK
    digest = ((digest ^ (digest >> 33)) * _SECOND) & _MASK
    digest = ((digest ^ (digest >> 29)) * _THIRD) & _MASK
    return digest ^ (digest >> 32)


@lru_cache(maxsize=64)
def seed_of(salt: str) -> int:
    """Return the seed, 0 to 2^64 - 1, of a salt, which is drawn anew for each rollout."""
    return int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "big")


def seeded_bucket(seed: int, user_id: str) -> int:
    """Return the bucket 0..9999 of a user."""
    return xxh64(user_id.encode(), seed) % NUM_BUCKETS


def bucket_of(salt: str, user_id: str) -> int:
    """Return the bucket 0..9999 of a user in the rollout with that salt."""
    return seeded_bucket(seed_of(salt), user_id)
