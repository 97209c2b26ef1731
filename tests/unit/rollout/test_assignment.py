from functools import cache
from itertools import combinations
from random import Random

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from tasks.rollout.assignment import NUM_BUCKETS, bucket_of, xxh64
from tasks.rollout.record import Colour, Roles, SlotContent, StateRecord

PRIME32, PRIME64 = 2_654_435_761, 11_400_714_785_074_694_797


@pytest.mark.parametrize(
    ("length", "seed", "digest"),
    (
        pytest.param(0, 0, 0xEF46DB3751D8E999, id="nothing"),
        pytest.param(0, PRIME32, 0xAC75FDA2929B17EF, id="nothing, seeded"),
        pytest.param(1, 0, 0xE934A84ADB052768, id="a byte"),
        pytest.param(1, PRIME32, 0x5014607643A9B4C3, id="a byte, seeded"),
        pytest.param(4, 0, 0x9136A0DCA57457EE, id="half a word"),
        pytest.param(14, 0, 0x8282DCC4994E35C8, id="a word, half of one and two bytes"),
        pytest.param(14, PRIME32, 0xC3BD6BF63DEB6DF0, id="the same, seeded"),
        pytest.param(222, 0, 0xB641AE8CB691C174, id="stripes"),
        pytest.param(222, PRIME32, 0x20CB8AB7AE10C14A, id="stripes, seeded"),
    ),
)
def test_xxh64_has_its_published_values(length: int, seed: int, digest: int) -> None:
    """Values and input of the sanity check in xxHash's repository."""
    data, state = bytearray(), PRIME32
    for _ in range(length):
        data.append(state >> 56)
        state = state * PRIME64 % 2**64
    assert xxh64(bytes(data), seed) == digest


def test_a_change_of_the_function_would_move_users_in_running_rollouts() -> None:
    assert bucket_of("salt", "user-1") == 8716


NUM_USERS = 100_000
SHARES = (100, 500, 2500, 5000, NUM_BUCKETS)
ALPHA = 1e-4  # of each table: fixed users and salts, so a pass stays one
SALTS = tuple(
    StateRecord(
        model="shop",
        roles=Roles(candidate=Colour.GREEN),
        slots={Colour.GREEN: SlotContent(release_id=f"release-{number}", release_number=number)},
    ).salt
    or ""
    for number in range(1, 5)
)
SHAPES = ("u{}", "household-{:08d}", "{}@example.org")


@cache
def _buckets(salt: str, shape: str = "u{}") -> np.ndarray:
    return np.array([bucket_of(salt, shape.format(number)) for number in range(NUM_USERS)])


def _independent(first: np.ndarray, second: np.ndarray, parts: int) -> float:
    table = np.zeros((parts, parts))
    np.add.at(table, (first * parts // NUM_BUCKETS, second * parts // NUM_BUCKETS), 1)
    return float(chi2_contingency(table).pvalue)


@pytest.mark.parametrize("shape", SHAPES)
def test_buckets_are_uniform_whatever_users_are_called(shape: str) -> None:
    counts = np.bincount(_buckets(SALTS[0], shape) // 100, minlength=100)
    assert chisquare(counts).pvalue > ALPHA
    assert chisquare(np.bincount(_buckets(SALTS[0], shape), minlength=NUM_BUCKETS)).pvalue > ALPHA


@pytest.mark.parametrize("salt", SALTS)
def test_each_rollout_gives_a_step_its_share_of_users(salt: str) -> None:
    for share in SHARES[:-1]:
        met = int((_buckets(salt) < share).sum())
        expected = NUM_USERS * share / NUM_BUCKETS
        assert chisquare([met, NUM_USERS - met], [expected, NUM_USERS - expected]).pvalue > ALPHA


@pytest.mark.parametrize(("one", "other"), tuple(combinations(SALTS, 2)))
def test_two_rollouts_are_independent(one: str, other: str) -> None:
    assert _independent(_buckets(one), _buckets(other), 10) > ALPHA


def test_a_dependence_would_be_seen() -> None:
    buckets = _buckets(SALTS[0])
    weak = np.where(np.arange(NUM_USERS) % 20 == 0, buckets, _buckets(SALTS[1]))
    assert _independent(buckets, weak, 10) < ALPHA, "one user in twenty keeps the bucket"
    crowded = np.where(np.arange(NUM_USERS) % 20 == 0, buckets // 2, buckets)
    assert chisquare(np.bincount(crowded // 100, minlength=100)).pvalue < ALPHA


def test_in_a_million_assignments_nobody_flips_and_nobody_moves_back() -> None:
    salt, draw, asked = SALTS[0], Random(1), 0
    users = [f"u{number}" for number in range(NUM_USERS)]
    met: set[str] = set()
    flips = moves_back = 0
    for share in SHARES:
        first = {user for user in users if bucket_of(salt, user) < share}
        draw.shuffle(users)  # who asked before must not matter
        again = {user for user in users if bucket_of(salt, user) < share}
        flips += len(first ^ again)
        moves_back += len(met - first)
        met = first
        asked += 2 * len(users)
    assert (asked, flips, moves_back, len(met)) == (1_000_000, 0, 0, NUM_USERS)


def test_users_and_salts_of_any_script_have_a_bucket() -> None:
    assert 0 <= bucket_of("соль", "用户") < NUM_BUCKETS
