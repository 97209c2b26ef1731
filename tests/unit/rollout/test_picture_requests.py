from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import DEFAULT_PLANS, PLANS, Material
from tasks.models.pictures import Pictures
from tasks.rollout.picture_requests import PictureReplay, plan_picture_replay
from tasks.rollout.replay import load_requests
from tasks.rollout.replay_requests import ReplayRequests

PERIODS = [Period.TRAIN, Period.SELECT, Period.GATE, *[Period.CANARY] * 20]
SHARES = [0.25, 0.25, 0.5]


def pictures() -> Pictures:
    """Return pictures whose every pixel is their row; odd rows are bags."""
    rows = np.arange(len(PERIODS))
    return Pictures(
        images=np.broadcast_to(rows[:, None, None], (len(rows), 2, 3)).astype(np.uint8),
        labels=rows % 2,
        period=np.asarray(PERIODS, np.int8),
        class_names=("Coat", "Bag"),
    )


@pytest.fixture
def requests() -> PictureReplay:
    return plan_picture_replay(pictures(), SHARES)


def test_only_pictures_kept_for_canary_traffic_are_asked_each_once(requests: PictureReplay) -> None:
    steps = [requests.of_step(step) for step in (1, 2, 3)]
    assert [len(step) for step in steps] == [5, 5, 10]
    asked = [requests.user_of(request) for step in steps for request in step]
    assert sorted(asked) == [f"picture-{row:06d}" for row in range(3, 23)]
    assert asked != sorted(asked)  # else a step could hold one class only


def test_the_order_is_the_same_in_every_run(requests: PictureReplay) -> None:
    again = plan_picture_replay(pictures(), SHARES)
    np.testing.assert_array_equal(again.rows, requests.rows)


def test_a_request_holds_the_picture_and_hopes_for_its_class(requests: PictureReplay) -> None:
    (request,) = np.flatnonzero(requests.rows == 7)
    assert json.loads(requests.body_of(request)) == {
        "signature_name": "serving_default",
        "inputs": {"images": [[[7, 7, 7], [7, 7, 7]]]},
    }
    assert requests.is_hit(request, {"outputs": {"classes": [["Bag", "Coat"]]}})
    assert not requests.is_hit(request, {"outputs": {"classes": [["Coat", "Bag"]]}})


def test_a_file_of_pictures_is_told_from_one_of_shoppers(
    requests: PictureReplay, tmp_path: Path
) -> None:
    path = tmp_path / "traffic" / "requests.npz"
    requests.save(path)
    found = load_requests(path)
    assert isinstance(found, PictureReplay)
    for request in range(len(requests)):
        assert found.body_of(request) == requests.body_of(request)
        assert found.is_hit(request, {"outputs": {"classes": [[requests.labels[request]]]}})
    assert list(found.of_step(3)) == list(requests.of_step(3))
    with pytest.raises(
        BadRequestError, match="expected format replay_requests/1, found 'replay_pi"
    ):
        ReplayRequests.load(path)


def test_the_plan_of_pictures_gives_each_step_the_users_that_it_wants_of_2000() -> None:
    for step in PLANS[DEFAULT_PLANS[Material.PICTURES]].steps:
        asked, share = 2000 * step.replay_share, step.share_basis_points / 10_000
        expected = asked * min(share, 1 - share)
        # Three standard deviations of a binomial below what is expected.
        assert expected - 3 * (expected * (1 - share)) ** 0.5 >= step.min_users
