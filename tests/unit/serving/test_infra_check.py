from typing import Any

import pytest

from tasks.serving.golden_answers import GoldenRequest, Ranked
from tasks.serving.infra_check import check_answers, measure_side_by_side, percentile

ANSWER = Ranked(items=("a", "b"), scores=(2.0, 1.0))
WRONG = Ranked(items=("b", "a"), scores=(2.0, 1.0))
GOLDEN = [
    GoldenRequest(user=f"u{number}", inputs={"history": [["a"]], "steps_ago": [[1]]}, answer=ANSWER)
    for number in range(4)
]


def test_right_wrong_and_failed_answers_are_counted_apart() -> None:
    def ask(request: Any) -> Any:
        if request.user == "u3":
            raise ConnectionError("gone")
        return WRONG if request.user == "u1" else ANSWER

    found = check_answers(GOLDEN, ask)
    assert (found.asked, found.wrong, found.failed) == (4, 1, 1)
    assert found.examples == (
        "user u1 place 1: expected a (2), found b (2)",
        "user u3: ConnectionError: gone",
    )


def test_every_server_gets_every_request_and_they_take_turns_in_going_first() -> None:
    order = []
    senders = {
        "candidate": lambda request: order.append(("candidate", request.user)),
        "stable": lambda request: order.append(("stable", request.user)),
    }
    found = measure_side_by_side(GOLDEN, senders)
    measured = order[len(GOLDEN) * 2 :]  # after the warm-up
    assert [name for name, _ in measured[:4]] == ["candidate", "stable", "stable", "candidate"]
    assert found["candidate"].requests == found["stable"].requests == 4


@pytest.mark.parametrize(("rank", "value"), ((50, 5), (95, 10), (99, 10), (10, 1)))
def test_percentiles_are_nearest_rank(rank: Any, value: Any) -> None:
    assert percentile(range(1, 11), rank) == value
