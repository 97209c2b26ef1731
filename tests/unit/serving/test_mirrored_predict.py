from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc
import pytest

from tasks.serving import protos
from tasks.serving.client import matrix, pictures, predict_request
from tasks.serving.mirrored_predict import (
    METHOD,
    SlotAsker,
    UnansweredError,
    mirrored_requests,
    of_version,
    ranked_columns,
)

MAX_BYTES = 10_000


def response(**outputs: object) -> object:
    made = protos.predict.PredictResponse()
    for name, tensor in outputs.items():
        made.outputs[name].CopyFrom(tensor)
    return made


def test_ranked_tensors_are_read_as_rest_gives_them_by_column() -> None:
    found = response(
        items=matrix([["bag", "coat"], ["hat", "bag"]]), scores=matrix([[1.0, 0.5], [0.25, 0.0]])
    )
    assert ranked_columns(found) == {
        "items": [["bag", "coat"], ["hat", "bag"]],
        "scores": [[1.0, 0.5], [0.25, 0.0]],
    }
    assert ranked_columns(response(classes=matrix([[3, 1]]))) == {"classes": [[3, 1]]}


def test_values_as_raw_content_are_read_too() -> None:
    tensor = protos.TensorProto(dtype=1, tensor_content=b"\0\0\x80?\0\0\0?")  # 1 and 1/2
    for size in (1, 2):
        tensor.tensor_shape.dim.add(size=size)
    assert ranked_columns(response(scores=tensor)) == {"scores": [[1.0, 0.5]]}


def test_what_is_no_table_of_values_is_left_out() -> None:
    flat = protos.TensorProto(dtype=7, string_val=[b"bag"])
    flat.tensor_shape.dim.add(size=1)
    short = matrix([["bag", "coat"]])
    short.string_val.pop()
    not_text = matrix([["bag"]])
    not_text.string_val[0] = b"\xff"
    for tensor in (flat, short, not_text, pictures([[[1, 2]]])):
        assert ranked_columns(response(items=tensor)) == {}
    assert ranked_columns(response(embedding=matrix([[1.0]]))) == {}


def test_whatever_version_or_label_was_asked_another_is_asked() -> None:
    labelled = protos.predict.PredictRequest()
    labelled.model_spec.name = "shop"
    labelled.model_spec.version_label = "canary"
    for request in (
        predict_request("shop", {"history": [["bag"]]}),
        predict_request("shop", {"history": [["bag"]]}, version=9),
        labelled.SerializeToString(),
    ):
        spec = protos.predict.PredictRequest.FromString(of_version(request, 2)).model_spec
        assert (spec.name, spec.version.value, spec.version_label) == ("shop", 2, "")


@dataclass
class Listener:
    """A listener that keeps what it is given, and a client of it."""

    channel: grpc.Channel
    taken: list[tuple[str, bytes]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def ask(self, request: bytes, method: str = METHOD) -> bytes:
        return bytes(self.channel.unary_unary(method)(request, timeout=10))


@pytest.fixture
def listener() -> Iterator[Listener]:
    taken: list[tuple[str, bytes]] = []
    dropped: Counter[str] = Counter()

    def take(model: str, request: bytes) -> None:
        taken.append((model, request))

    def drop(why: str) -> None:
        dropped[why] += 1

    with (
        mirrored_requests("127.0.0.1", 0, MAX_BYTES, take, drop) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Listener(channel, taken, dropped)


def test_a_request_is_taken_and_answered_with_nothing(listener: Listener) -> None:
    request = predict_request("shop", {"history": [["bag"]]})
    assert listener.ask(request) == b""
    assert (listener.taken, listener.dropped) == ([("shop", request)], {})


def eventually(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_cannot_be_taken_is_counted(listener: Listener) -> None:
    assert listener.ask(b"no message") == b""
    assert listener.dropped == {"body": 1}
    with pytest.raises(grpc.RpcError) as refused:
        listener.ask(predict_request("shop", {"history": [["x" * MAX_BYTES]]}))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    eventually(lambda: listener.dropped == {"body": 2})
    with pytest.raises(grpc.RpcError) as refused:
        listener.ask(b"", "/tensorflow.serving.ModelService/GetModelStatus")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (listener.dropped, listener.taken) == ({"body": 2, "path": 1}, [])


def test_a_slot_that_does_not_answer_is_said_with_its_address() -> None:
    ask = SlotAsker(timeout_seconds=0.5)
    with pytest.raises(
        UnansweredError, match=r"127\.0\.0\.1:1: expected a prediction of version 2"
    ):
        ask("127.0.0.1:1", predict_request("shop", {"history": [["bag"]]}), 2)
