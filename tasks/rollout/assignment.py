"""User -> bucket: FNV-1a with a murmur finaliser over salt and user id, as Envoy computes it."""

from __future__ import annotations

NUM_BUCKETS = 10_000
_FNV_OFFSET = 0x811C9DC5
_FNV_PRIME = 0x01000193
_MASK = 0xFFFFFFFF


def _fnv1a(data: bytes, start: int = _FNV_OFFSET) -> int:
    digest = start
    for byte in data:
        digest = ((digest ^ byte) * _FNV_PRIME) & _MASK
    return digest


def _finalise(digest: int) -> int:
    """Mix all bits (murmur3's fmix32): FNV-1a alone leaves its low bits almost linear."""
    digest ^= digest >> 16
    digest = (digest * 0x85EBCA6B) & _MASK
    digest ^= digest >> 13
    digest = (digest * 0xC2B2AE35) & _MASK
    return digest ^ (digest >> 16)


def bucket_of(salt: str, user_id: str) -> int:
    """Return the bucket 0..9999 of a user; the salt is drawn anew for each rollout."""
    # Finalised between salt and user: without it two salts would share their lowest bits.
    start = _finalise(_fnv1a(salt.encode()))
    return _finalise(_fnv1a(user_id.encode(), start)) % NUM_BUCKETS


# The same function for LuaJIT: `bit` works on signed 32-bit numbers and takes its arguments modulo
# 2^32, exactly up to 2^51. FNV's prime is 2^24 + 403, so that its product stays below 2^41; a product
# of two 32-bit numbers does not fit and is made of two halves. The salt stays the same for a rollout:
# what it comes to is kept, or it would cost more than the user.
LUA_BUCKET = """
local bit = require("bit")
local band, bxor, lshift, rshift, tobit = bit.band, bit.bxor, bit.lshift, bit.rshift, bit.tobit
local byte = string.byte
local function multiply(a, b)
  local low = band(a, 0xffff) * b
  local high = band(rshift(a, 16) * b, 0xffff) * 65536
  return tobit((low + high) % 4294967296)
end
local function fnv1a(text, digest)
  for i = 1, #text do
    digest = bxor(digest, byte(text, i))
    digest = tobit(digest * 403 + lshift(digest, 24))
  end
  return digest
end
local function finalise(digest)
  digest = bxor(digest, rshift(digest, 16))
  digest = multiply(digest, 0x85ebca6b)
  digest = bxor(digest, rshift(digest, 13))
  digest = multiply(digest, 0xc2b2ae35)
  return bxor(digest, rshift(digest, 16))
end
local salted, start
local function bucket_of(salt, user)
  if salt ~= salted then
    salted, start = salt, finalise(fnv1a(salt, 0x811c9dc5))
  end
  return (finalise(fnv1a(user, start)) % 4294967296) % 10000
end
"""
