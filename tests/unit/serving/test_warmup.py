from typing import Any

import pytest

from tasks.serving.status import Code, ServingError
from tasks.serving.warmup import REQUESTS_FILE, read_records, warm_up, write_records


def test_records_read_back_as_they_were_written(tmp_path: Any) -> None:
    records = [b"", b"a", bytes(range(256)) * 40]
    write_records(tmp_path / "r", records)
    assert list(read_records(tmp_path / "r")) == records


def test_the_checksum_is_tfrecords(tmp_path: Any) -> None:
    # Written by tf.io.TFRecordWriter for the record b"abc".
    content = bytes.fromhex("03000000000000000dd9fbd9616263") + bytes.fromhex("33c4e9cd")
    write_records(tmp_path / "r", [b"abc"])
    written = (tmp_path / "r").read_bytes()
    assert written[:8] == content[:8]
    assert len(written) == len(content)


@pytest.mark.parametrize(
    "damage",
    (
        pytest.param(lambda content: b"no TFRecord at all", id="not a TFRecord"),
        pytest.param(lambda content: content[:-1], id="cut at the end"),
        pytest.param(lambda content: content[:13] + b"X" + content[14:], id="a changed byte"),
    ),
)
def test_a_damaged_file_is_data_loss(tmp_path: Any, damage: Any) -> None:
    path = tmp_path / REQUESTS_FILE
    path.parent.mkdir()
    write_records(path, [b"some record", b"another"])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ServingError, match="Please verify your warmup data") as refused:
        list(read_records(path))
    assert refused.value.code is Code.DATA_LOSS


def test_a_version_without_recorded_requests_needs_no_warm_up(tmp_path: Any) -> None:
    nobody: Any = None
    assert warm_up(nobody, tmp_path) == 0
