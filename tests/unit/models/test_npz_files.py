"""Whatever is wrong with a file of arrays is said in one sentence that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.models.interactions import Interactions
from tasks.models.npz_files import arrays_of
from tasks.models.pictures import Pictures
from tasks.models.profile_definition import ProfileDefinition
from tasks.rollout.replay import load_requests

READERS = {
    "interactions": Interactions.load,
    "profile definition": ProfileDefinition.load,
    "requests": load_requests,
    "pictures": lambda path: Pictures.load(path.parent),
}


def whole(path: Path) -> bytes:
    np.savez(path, format=np.asarray("some/1"), values=np.arange(1000))
    return path.read_bytes()


def test_arrays_of_the_wanted_format_are_read(tmp_path: Path) -> None:
    whole(tmp_path / "some.npz")
    with arrays_of(tmp_path / "some.npz", "other/1", "some/1") as arrays:
        assert arrays["values"].sum() == 499_500


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kept", (0, 40, -30), ids=("empty", "torn", "without its end"))
def test_a_torn_file_is_refused_by_its_name(tmp_path: Path, reader: str, kept: int) -> None:
    path = tmp_path / "pictures.npz"
    path.write_bytes(whole(path)[:kept])
    with pytest.raises(BadRequestError, match=r"^pictures\.npz: expected .* found"):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_another_format_is_refused(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "pictures.npz"
    whole(path)
    with pytest.raises(BadRequestError, match=r"pictures\.npz: expected format .*, found 'some/1'"):
        READERS[reader](path)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pictures.npz"
    np.savez(path, format=np.asarray("pictures/1"), images=np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(BadRequestError, match=r"complete pictures/1, found: .*class_names"):
        Pictures.load(tmp_path)


def test_a_file_that_is_not_there_is_no_broken_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), arrays_of(tmp_path / "none.npz", "some/1"):
        pass


@pytest.mark.parametrize("reader", READERS)
def test_one_array_in_place_of_many_is_refused(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "pictures.npz"
    with path.open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(
        BadRequestError, match=r"^pictures\.npz: .* found: one array, a npy; make it"
    ):
        READERS[reader](path)


def test_a_compressed_file_with_any_byte_changed_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez_compressed(path, format=np.asarray("some/1"), values=np.arange(1000))
    good = path.read_bytes()
    refused = []
    for place in range(0, len(good), 3):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        try:
            with arrays_of(path, "some/1") as arrays:
                assert arrays["values"].sum() == 499_500
        except BadRequestError as error:
            refused.append(error)
    assert {"error", "BadZipFile"} <= {type(error.__cause__).__name__ for error in refused}
    assert all(str(error).startswith("some.npz: expected ") for error in refused)
    assert max(len(str(error)) for error in refused) < 300
