"""What a kill cost is counted from what the two runs said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.integration.kills.driver import Lost
from tests.integration.kills.told_steps import Step, lost_steps, place_of, steps_told

END = math.inf


def steps(*told: tuple[int, float, float]) -> list[Step]:
    return [Step(place=(epoch, batch), at=at) for epoch, batch, at in told]


KILLED = steps((1, 1, 10.0), (1, 2, 10.3), (1, END, 10.5), (2, 1, 10.8), (2, 2, 11.1), (2, 3, 11.4))


def test_steps_are_told_by_process_with_their_times(tmp_path: Path) -> None:
    said = (
        (7, "10.000", "fitting popularity as a baseline"),
        (7, "10.250", "3% epoch 1, batch 2 of 5"),
        (7, "10.500", "10% epoch 1: loss 5.3430, select NDCG@10 0.4553"),
        (9, "12.000", "goes on after epoch 1 and batch 2, from a checkpoint"),
        (9, "12.125", "13% epoch 2, batch 3 of 5"),
    )
    lines = [
        json.dumps({"pid": pid, "time": f"1970-01-01T00:00:{at}Z", "message": message})
        for pid, at, message in said
    ]
    (tmp_path / "lines").write_text("\n".join(lines))

    assert steps_told(tmp_path / "lines") == [
        steps((1, 2, 10.25), (1, END, 10.5)),
        steps((2, 3, 12.125)),
    ]


@pytest.mark.parametrize(
    ("words", "place"),
    (("epoch 2", (2, END)), ("epoch 2 and batch 5", (3, 5)), (None, (0, END))),
)
def test_a_place_in_words_is_the_last_step_that_was_kept(words, place) -> None:
    assert place_of(words) == place


@pytest.mark.parametrize(
    ("kept", "again", "lost"),
    (
        pytest.param("epoch 1 and batch 3", (3, 1, 20.0), Lost(), id="nothing"),
        pytest.param("epoch 1 and batch 2", (2, 3, 20.0), Lost(steps=1), id="a batch"),
        pytest.param("epoch 1", (2, 1, 20.0), Lost(steps=3), id="an interval and a batch"),
    ),
)
def test_an_interval_and_a_batch_may_be_lost(kept, again, lost) -> None:
    assert lost_steps(KILLED, steps(again), kept, interval=0.7) == lost


def test_more_than_an_interval_and_a_batch_is_too_much() -> None:
    lost = lost_steps(KILLED, steps((2, 1, 20.0)), "epoch 1", interval=0.5)

    assert lost.steps == 3
    assert (
        "expected at most 0.5 s and a batch of work lost, found 3 steps, 2 of them" in lost.trouble
    )


def test_a_run_that_began_anew_lost_everything() -> None:
    lost = lost_steps(KILLED, steps((1, 1, 20.0)), None, interval=60.0)

    assert lost.steps == 5
    assert "found 5 steps" in lost.trouble


def test_a_run_that_does_again_what_its_checkpoint_holds_is_found() -> None:
    lost = lost_steps(KILLED, steps((2, 1, 20.0)), "epoch 1 and batch 2", interval=60.0)

    assert lost.trouble == "expected steps after epoch 1 and batch 2 only, found (2, 1)"
