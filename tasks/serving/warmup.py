"""Replays a version's recorded requests before it becomes AVAILABLE (saved_model_warmup*.cc)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tasks.serving.inference import classify, multi_inference, regress
from tasks.serving.predict import predict
from tasks.serving.protos import prediction_log
from tasks.serving.session import SavedModelSession
from tasks.serving.status import Code, ServingError, invalid_argument

REQUESTS_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000
_CRC32C_POLYNOMIAL = 0x82F63B78


def warm_up(session: SavedModelSession, version_folder: Path, num_iterations: int = 1) -> int:
    """Run every recorded request `num_iterations` times; return the number of records."""
    path = version_folder / REQUESTS_FILE
    if not path.exists():
        return 0
    number = 0
    for number, record in enumerate(read_records(path), start=1):
        try:
            log = prediction_log.PredictionLog.FromString(record)
        except DecodeError as error:
            raise invalid_argument(f"Failed to parse warmup record {number} from {path}") from error
        for _ in range(max(num_iterations, 1)):
            _replay(session, log)
        if number > MAX_RECORDS:
            raise invalid_argument(
                f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
            )
    return number


def _replay(session: SavedModelSession, log: Any) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        inputs = {alias: tensor.SerializeToString() for alias, tensor in request.inputs.items()}
        predict(session, request.model_spec.signature_name, inputs, request.output_filter)
    elif kind == "classify_log":
        classify(session, log.classify_log.request)
    elif kind == "regress_log":
        regress(session, log.regress_log.request)
    elif kind == "multi_inference_log":
        multi_inference(session, None, log.multi_inference_log.request)
    elif kind is not None:
        number = log.DESCRIPTOR.fields_by_name[kind].number
        message = f"Unsupported log_type for warmup: {number}"
        raise ServingError(Code.UNIMPLEMENTED, message)


# TFRecord: u64 length, u32 masked crc32c of it, the bytes, u32 masked crc32c of them.


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file; damage is DATA_LOSS."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        head = content[at : at + 12]
        if len(head) < 12:
            raise _data_loss(f"truncated record at {at}")
        (length,) = struct.unpack_from("<Q", head)
        if _masked_crc32c(head[:8]) != struct.unpack_from("<I", head, 8)[0]:
            raise _data_loss(f"corrupted record at {at}")
        record = content[at + 12 : at + 12 + length]
        checksum = content[at + 12 + length : at + 16 + length]
        if len(checksum) < 4:
            raise _data_loss(f"truncated record at {at}")
        if _masked_crc32c(record) != struct.unpack("<I", checksum)[0]:
            raise _data_loss(f"corrupted record at {at}")
        yield record
        at += 16 + length


def write_records(path: Path, records: list[bytes]) -> None:
    """Write a TFRecord file."""
    with path.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + struct.pack("<I", _masked_crc32c(length)))
            file.write(record + struct.pack("<I", _masked_crc32c(record)))


def _data_loss(text: str) -> ServingError:
    advice = "Please verify your warmup data is in TFRecord format."
    return ServingError(Code.DATA_LOSS, f"{text}. {advice}")


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_CRC32C_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def _masked_crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
