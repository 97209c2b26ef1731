"""Several gloo processes train what one would: the same curve, the same bits again after kills."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.integration.ranks.started import Started

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
KILLS = int(os.environ.get("HEADRACE_RANK_KILLS", "2"))
SEED = 20261126


def losses(ended: dict) -> list[float]:
    return [point["loss"] for point in ended["curve"]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return Started(tmp_path_factory.mktemp("alone"), 1).ended()[0]


@pytest.mark.parametrize("size", (2, 4))
def test_without_dropout_several_ranks_have_the_curve_of_one(tmp_path, alone, size: int) -> None:
    ended = Started(tmp_path, size).ended()

    assert len(losses(alone)) == 6
    assert losses(ended[0]) == pytest.approx(losses(alone), rel=1e-5)
    scores = [[point["select_ndcg10"] for point in one["curve"]] for one in (ended[0], alone)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)
    assert len({one["digest"] for one in ended}) == 1, "all ranks end with the same weights"
    assert all(one["curve"] == ended[0]["curve"] for one in ended)


def test_with_length_buckets_two_ranks_have_the_curve_of_one(tmp_path) -> None:
    two = Started(tmp_path / "two", 2, length_buckets=2).ended()
    one = Started(tmp_path / "one", 1, length_buckets=2).ended()[0]

    assert losses(two[0]) == pytest.approx(losses(one), rel=1e-5)
    assert two[0]["digest"] == two[1]["digest"]


def test_ranks_show_the_same_windows_without_types_as_one(tmp_path) -> None:
    ended = Started(tmp_path / "two", 2, typed=1).ended()
    one = Started(tmp_path / "one", 1, typed=1).ended()[0]

    assert losses(ended[0]) == pytest.approx(losses(one), rel=1e-5)
    assert len({rank["digest"] for rank in ended}) == 1


def test_with_dropout_each_rank_draws_its_own_and_the_curve_is_near(tmp_path, alone) -> None:
    ended = Started(tmp_path / "two", 2, dropout=0.1).ended()
    one = Started(tmp_path / "one", 1, dropout=0.1).ended()[0]

    assert losses(ended[0]) == pytest.approx(losses(one), rel=0.05)
    assert losses(ended[0]) != losses(one)
    assert len({one["digest"] for one in ended}) == 1


@pytest.mark.trial
@pytest.mark.parametrize(("size", "length_buckets"), ((1, 1), (2, 1), (3, 1), (2, 2)))
def test_all_ranks_killed_at_random_moments_end_with_the_undisturbed_weights(
    tmp_path: Path, size: int, length_buckets: int
) -> None:
    told = {"dropout": 0.1, "users": 60, "max_epochs": 10, "checkpoint_seconds": 0.05}
    told["length_buckets"] = length_buckets
    whole = Started(tmp_path / "whole", size, **told)
    whole.wait_until_begun()
    began = time.monotonic()
    expected = whole.ended()
    seconds = time.monotonic() - began
    draw = random.Random(SEED + size)
    kills = resumed = 0
    for number in range(KILLS):
        folder, moment = tmp_path / str(number), draw.uniform(0.1, 0.9) * seconds
        killed = Started(folder, size, **told)
        killed.wait_until_begun()
        time.sleep(moment)
        kills += killed.kill() == [-signal.SIGKILL] * size  # else some had ended before
        again = Started(folder, size, **told).ended()
        resumed += again[0]["resumed_from"] is not None
        assert [one["digest"] for one in again] == [expected[0]["digest"]] * size, moment
        assert again[0]["curve"] == expected[0]["curve"]
    print(
        f"{size} ranks: {kills} of {KILLS} killed, all equal, {resumed} resumed from a checkpoint"
    )
    assert kills > 0
    assert resumed > 0


def test_a_rank_that_is_lost_fails_the_others_at_once(tmp_path: Path) -> None:
    started = Started(tmp_path, 2, users=60, max_epochs=200)
    started.wait_until_begun()
    time.sleep(1)
    started.processes[1].send_signal(signal.SIGKILL)
    began = time.monotonic()

    assert started.wait() == [1, -signal.SIGKILL], started.said()
    assert time.monotonic() - began < 30


def test_a_fit_of_two_ranks_does_not_go_on_as_one(tmp_path: Path) -> None:
    Started(tmp_path, 2, max_epochs=1).ended()
    alone = Started(tmp_path, 1)

    assert alone.wait() == [4]
    assert "expected one of 1 ranks, found one of 2: go on with as many ranks" in alone.said()
