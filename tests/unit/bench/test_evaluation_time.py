"""The aim is judged by what a user waits, not by seconds of the process."""

from __future__ import annotations

import pytest

from bench.evaluation_time import told

PLAIN = [(6.0, 9.0), (6.0, 9.0), (9.0, 9.0)]


@pytest.mark.parametrize(
    ("ours", "expected"),
    (
        pytest.param(
            [(1.5, 4.3), (1.5, 4.1), (1.5, 4.4)],
            "ABOVE 2 s: 4.30 by the clock at a load average of 7.0 (1.50 of the process)",
            id="quick by its own seconds, slow by the clock",
        ),
        pytest.param(
            [(1.5, 1.6), (1.5, 1.9), (1.5, 1.7)],
            "within 2 s: 1.70 by the clock at a load average of 7.0 (1.50 of the process)",
            id="quick by both",
        ),
        pytest.param(
            [(3.0, 1.7), (3.0, 1.7), (3.0, 1.7)],
            "within 2 s: 1.70 by the clock at a load average of 7.0 (3.00 of the process)",
            id="two threads are quicker than their seconds together",
        ),
    ),
)
def test_the_aim_is_judged_by_the_clock_with_the_load_beside_it(ours, expected):
    assert told(ours, PLAIN, 7.0).startswith(expected)


def test_how_many_times_as_fast_is_by_seconds_of_the_process():
    found = told([(1.5, 4.3), (1.5, 4.1), (1.5, 4.4)], PLAIN, 7.0)

    assert "plain 9.00 (6.00), 4.00 times as fast (4.00, 4.00, 6.00)" in found
