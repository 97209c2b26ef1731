"""Every data set of the trigger form has features."""

from __future__ import annotations

import pytest

from tasks.contracts.catalogues import Material, datasets_of
from tasks.contracts.errors import BadRequestError
from tasks.features.settings import FEATURES, FeatureSettings, settings_of


def test_every_set_of_the_form_has_settings():
    assert set(FEATURES) == set(datasets_of(Material.EVENTS))


def test_an_unknown_set_is_refused():
    with pytest.raises(BadRequestError, match="found 'shop'"):
        settings_of("shop")


def test_settings_that_mean_nothing_are_refused():
    FeatureSettings(min_count=1)
    for wrong in (
        {"min_count": 0},
        {"min_count": 1, "category_depth": 0},
        {"min_count": 1, "max_labels": 32_768},
        {"min_count": 1, "prior_events": 0.0},
    ):
        with pytest.raises(BadRequestError, match="at least 1"):
            FeatureSettings(**wrong)
