"""The table of known sets agrees with what the trigger form offers."""

from __future__ import annotations

import pytest

from tasks.contracts.catalogues import DATASETS, Material, datasets_of
from tasks.contracts.requests import parse_utc
from tasks.events.datasets import KNOWN_SETS
from tasks.events.periods import LastSteps, TimeCuts
from tasks.events.pictures import PICTURE_SETS


def test_every_set_of_the_form_can_be_read():
    assert {*KNOWN_SETS, "events"} == set(datasets_of(Material.EVENTS))
    assert set(PICTURE_SETS) == set(datasets_of(Material.PICTURES))


@pytest.mark.parametrize("name", sorted(KNOWN_SETS))
def test_a_set_without_times_is_cut_by_place_and_one_with_times_by_time(name):
    known = KNOWN_SETS[name]
    assert known.kind.order_only is DATASETS[name].order_only
    assert isinstance(known.periods, LastSteps if known.kind.order_only else TimeCuts)


@pytest.mark.parametrize("name", [n for n, known in DATASETS.items() if known.as_of])
def test_a_release_is_dated_after_the_canary_period_has_begun(name):
    periods = KNOWN_SETS[name].periods
    assert isinstance(periods, TimeCuts)
    assert periods.canary < parse_utc(str(DATASETS[name].as_of))
