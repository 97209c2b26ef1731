from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.events.idx_files import read_idx

# Two pictures of one row and three columns.
HEAD = bytes((0, 0, 8, 3)) + b"".join(size.to_bytes(4, "big") for size in (2, 1, 3))
WHOLE = HEAD + bytes(range(6))


def written(folder: Path, content: bytes) -> Path:
    path = folder / "some-images-idx3-ubyte"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", (WHOLE, gzip.compress(WHOLE)), ids=("plain", "gzipped"))
def test_an_idx_file_is_read_with_its_sizes(tmp_path: Path, content: bytes) -> None:
    assert read_idx(written(tmp_path, content), 3).tolist() == [[[0, 1, 2]], [[3, 4, 5]]]


@pytest.mark.parametrize(
    ("content", "said"),
    (
        pytest.param(WHOLE[:-1], "expected 6 bytes after its head for the sizes", id="cut short"),
        pytest.param(b"PNG and more than enough", "magic 00000803", id="another format"),
        pytest.param(b"", "found nothing", id="empty"),
        pytest.param(gzip.compress(WHOLE)[:-9], "expected a whole gzip file", id="cut gzip"),
    ),
)
def test_a_file_that_is_not_whole_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(BadRequestError, match=said):
        read_idx(written(tmp_path, content), 3)


def test_labels_in_place_of_images_are_refused(tmp_path: Path) -> None:
    labels = bytes((0, 0, 8, 1)) + (2).to_bytes(4, "big") + bytes((1, 2))
    with pytest.raises(BadRequestError, match="images before labels"):
        read_idx(written(tmp_path, labels), 3)
