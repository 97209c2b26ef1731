from __future__ import annotations

from pathlib import Path

import pytest

from tasks.adapters import mirror_plots
from tasks.adapters.mirror_plots import MAX_SPANS, Traffic

NIGHT = 1_764_200_000.0
WEEKS = 3 * 7 * 86_400


def test_requests_are_counted_by_variant_and_step() -> None:
    traffic = Traffic()
    for second in range(8):
        traffic.add(NIGHT + second, "candidate" if second % 4 == 0 else "stable", 1 + second // 4)
    assert traffic.steps == {1: (NIGHT, NIGHT + 3), 2: (NIGHT + 4, NIGHT + 7)}
    assert (traffic.begin, traffic.end) == (NIGHT, NIGHT + 7)
    assert traffic.candidates_share(2) == 0.25
    by_variant = traffic.by_variant()
    assert [by_variant["candidate"].total(), by_variant["stable"].total()] == [2, 6]
    assert sorted(by_variant["candidate"]) == pytest.approx([0.0625, 4.0625])


def test_three_weeks_take_no_more_memory_than_an_hour(tmp_path: Path) -> None:
    """Their spans are wider: none is a bar of the plot wide, and none of the requests is lost."""
    traffic = Traffic()
    number = 4 * MAX_SPANS
    for place in range(number):
        traffic.add(NIGHT + WEEKS * place / (number - 1), "stable", 1 + 3 * place // number)
    assert len(traffic.counts) <= MAX_SPANS
    assert traffic.seconds < WEEKS / 60
    assert traffic.by_variant()["stable"].total() == number
    mirror_plots.traffic(traffic, tmp_path / "traffic.png")
    assert (tmp_path / "traffic.png").stat().st_size > 1000
