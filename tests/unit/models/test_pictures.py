from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.models.pictures import FILE, Pictures


def pictures(labels: tuple[int, ...] = (0, 1, 1)) -> Pictures:
    return Pictures(
        images=np.arange(12, dtype=np.uint8).reshape(3, 2, 2) * 20,
        labels=np.asarray(labels, np.int64),
        period=np.asarray([0, 2, 2], np.int8),
        class_names=("Bag", "Coat"),
    )


def test_what_is_saved_is_read_again_and_equal_pictures_give_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    pictures().save(tmp_path)
    found = Pictures.load(tmp_path)
    found.save(tmp_path / "again")
    assert found.class_names == ("Bag", "Coat")
    np.testing.assert_array_equal(found.images, pictures().images)
    assert (tmp_path / FILE).read_bytes() == (tmp_path / "again" / FILE).read_bytes()


def test_a_model_is_shown_a_period_from_black_0_to_white_1() -> None:
    kept = pictures()
    assert kept.rows(Period.GATE).tolist() == [1, 2]
    assert kept.shown(np.asarray([0])).ravel().tolist() == pytest.approx(
        [0, 20 / 255, 40 / 255, 60 / 255]
    )


def test_a_label_without_a_class_is_refused() -> None:
    with pytest.raises(BadRequestError, match=r"expected labels 0\.\.1, found 0\.\.2"):
        pictures(labels=(0, 1, 2))


def test_a_label_too_few_is_refused() -> None:
    with pytest.raises(BadRequestError, match="N labels and periods"):
        pictures(labels=(0, 1))
