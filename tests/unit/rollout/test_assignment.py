from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from tasks.rollout import assignment
from tasks.rollout.assignment import NUM_BUCKETS, bucket_of


@pytest.mark.parametrize(
    ("text", "digest"),
    ((b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968)),
    ids=["the empty text", "one letter", "six letters"],
)
def test_fnv1a_has_its_published_values(text: bytes, digest: int) -> None:
    assert assignment._fnv1a(text) == digest


@pytest.mark.parametrize(("before", "after"), ((0, 0), (1, 0x514E28B7), (0xFFFFFFFF, 0x81F16F39)))
def test_the_finaliser_has_murmurs_published_values(before: int, after: int) -> None:
    assert assignment._finalise(before) == after


def test_a_change_of_the_function_would_move_users_in_running_rollouts() -> None:
    assert bucket_of("salt", "user-1") == 7118


def _buckets(salt: str, users: range) -> np.ndarray:
    return np.array([bucket_of(salt, f"u{number}") for number in users])


def test_buckets_are_uniform() -> None:
    counts = np.bincount(_buckets("one", range(100_000)) // 100, minlength=100)
    assert chisquare(counts).pvalue > 1e-4


def test_two_rollouts_are_independent() -> None:
    first, second = _buckets("r1", range(100_000)), _buckets("r2", range(100_000))
    table = np.zeros((10, 10))
    np.add.at(table, (first // 1000, second // 1000), 1)
    assert chi2_contingency(table).pvalue > 1e-4


def test_the_candidates_users_only_grow_with_the_share() -> None:
    buckets = _buckets("salt", range(20_000))
    shares = (100, 500, 2500, 5000, NUM_BUCKETS)
    members = [set(np.flatnonzero(buckets < share)) for share in shares]
    assert all(early <= late for early, late in pairwise(members))
    assert len(members[-1]) == 20_000


def test_users_and_salts_of_any_script_have_a_bucket() -> None:
    assert 0 <= bucket_of("соль", "用户") < NUM_BUCKETS
