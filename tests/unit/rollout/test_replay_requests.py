from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.models.interactions import EventRows, Interactions
from tasks.rollout import replay_requests
from tasks.rollout.replay import load_requests
from tasks.rollout.replay_requests import ReplayRequests, plan_replay

ROWS = (  # user, basket, item, time, period (3 = canary)
    ("ann", 0, "a", 10, 0),
    ("ann", 0, "b", 10, 0),
    ("ann", 1, "c", 400, 3),
    ("ann", 2, "a", 700, 3),
    ("ann", 2, "b", 700, 3),
    ("bob", 0, "c", 20, 0),
    ("bob", 1, "unknown", 500, 3),
    ("cid", 0, "a", 300, 3),  # no history: no request
    ("cid", 1, "b", 600, 3),
)


def interactions() -> Interactions:
    users = sorted({row[0] for row in ROWS})
    items = ["a", "b", "c"]
    return Interactions.from_rows(
        EventRows(
            item_ids=np.array(items),
            user_ids=np.array(users),
            user=np.array([users.index(row[0]) for row in ROWS]),
            item=np.array([items.index(row[2]) + 1 if row[2] in items else 0 for row in ROWS]),
            basket=np.array([row[1] for row in ROWS]),
            event_type=np.array([3, 0, 2, 3, 3, 3, 3, 3, 3]),
            time=np.array([row[3] for row in ROWS]),
            period=np.array([row[4] for row in ROWS]),
            repeats_allowed=True,
            baskets=True,
            order_only=False,
        )
    )


@pytest.fixture
def requests() -> ReplayRequests:
    return plan_replay(interactions(), [0.25, 0.25, 0.5])


def test_requests_come_in_order_of_time(requests: ReplayRequests) -> None:
    asked = [
        (requests.user_of(request), sorted(requests.targets_of(request))) for request in range(4)
    ]
    # bob's unknown choice has no time of its own: it stands where bob was last seen (20)
    assert asked == [("bob", []), ("ann", ["c"]), ("cid", ["b"]), ("ann", ["a", "b"])]


def test_a_request_holds_what_the_user_did_before_and_how_long_ago(
    requests: ReplayRequests,
) -> None:
    assert json.loads(requests.body_of(3)) == {
        "signature_name": "serving_default",
        "inputs": {"history": [["a", "b", "c"]], "steps_ago": [[2, 2, 1]]},
    }


def test_steps_use_disjoint_parts_one_after_the_other(requests: ReplayRequests) -> None:
    assert [list(requests.of_step(step)) for step in (1, 2, 3)] == [[0], [1], [2, 3]]


@pytest.mark.parametrize("shares", ([0.15, 0.2, 0.65], [0.1] * 8, [1.0]))
def test_no_request_belongs_to_two_steps(shares: list[float]) -> None:
    requests = plan_replay(interactions(), shares)
    asked = [request for step in range(1, len(shares) + 1) for request in requests.of_step(step)]
    assert asked == sorted(set(asked))
    assert len(asked) == int(sum(shares) * 4 + 1e-9)


def test_requests_survive_their_file(requests: ReplayRequests, tmp_path: Path) -> None:
    requests.save(tmp_path / "traffic" / "requests.npz")
    found = ReplayRequests.load(tmp_path / "traffic" / "requests.npz")
    assert [found.body_of(request) for request in range(4)] == [
        requests.body_of(request) for request in range(4)
    ]


def test_types_are_sent_where_both_models_read_them(tmp_path: Path) -> None:
    typed = plan_replay(interactions(), [0.25, 0.25, 0.5], typed=True)
    typed.save(tmp_path / "requests.npz")
    found = load_requests(tmp_path / "requests.npz")

    assert json.loads(found.body_of(3)) == {
        "signature_name": "next_event",
        "inputs": {
            "history": [["a", "b", "c"]],
            "steps_ago": [[2, 2, 1]],
            "event_types": [["purchase", "view", "cart"]],
        },
    }


def test_each_kind_of_file_is_read_as_what_it_is(requests: ReplayRequests, tmp_path: Path) -> None:
    requests.save(tmp_path / "requests.npz")
    assert type(load_requests(tmp_path / "requests.npz")) is ReplayRequests


def test_too_many_requests_are_cut_per_user_before_users_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay_requests, "MAX_REQUESTS", 3)
    requests = plan_replay(interactions(), [1.0])
    assert sorted(requests.user_of(request) for request in range(len(requests))) == [
        "ann",
        "bob",
        "cid",
    ]
