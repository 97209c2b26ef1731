"""A mirrored gRPC request, asked of real servers in the version that each of them serves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tasks.rollout.comparison import ShadowReport, rankings_in
from tasks.rollout.shadow import ASK_SECONDS, Comparator, Mirrored
from tasks.serving.client import predict_request
from tasks.serving.golden_answers import read_golden
from tasks.serving.mirrored_predict import SlotAsker, UnansweredError
from tests.integration.serving.running_server import RunningServer
from tests.integration.serving.test_stage_bundle import MODEL, Stack

pytestmark = pytest.mark.integration


def test_both_slots_are_asked_by_grpc_and_rank_as_their_bundle_says(
    tmp_path: Path, start_server: Callable[..., RunningServer], models: Path
) -> None:
    stack = Stack(tmp_path, start_server)
    bundle = models / "shop/bundle"
    servers = stack.start("blue", "green")
    stack.run("first", bundle)
    stack.state.promote("first")
    stack.run("second", bundle)
    golden = next(read_golden(bundle))
    request = predict_request(MODEL, golden.inputs, version=77)  # which no slot has
    ask = SlotAsker(timeout_seconds=ASK_SECONDS)
    with httpx.Client(trust_env=False) as client:
        comparator = Comparator(state_dir=stack.state_dir, client=client, ask_grpc=ask)
        comparator.inbox.put(Mirrored(model=MODEL, body=request, protocol="grpc"))
        assert comparator.turn()
        comparator.write()
    path = stack.state_dir / MODEL / "traffic" / "r2" / "shadow.json"
    found = ShadowReport.parse(path.read_bytes(), str(path))
    assert (found.candidate, found.stable, found.compared, found.equal) == (2, 1, 1, 1)
    assert (found.dropped, found.score_differences["0.99"]) == ({}, 0.0)
    address = f"127.0.0.1:{servers['green'].port}"
    (ranking,) = rankings_in({"outputs": ask(address, request, 2)})
    assert ranking.items[:10] == golden.answer.items[:10]
    assert ranking.scores[:10] == pytest.approx(golden.answer.scores[:10], rel=1e-5)
    with pytest.raises(UnansweredError, match="expected a prediction of version 1"):
        ask(address, request, 1)  # the other slot's
