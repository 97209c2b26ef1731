"""When a part of the stack counts as ready, and what its start waits for."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tasks.cli.parts import Part
from tasks.cli.slots import Slot, slot_part
from tasks.rollout.record import Colour
from tests.ports import free_port


def slot(folder: Path, port: int) -> Part:
    made = Slot(model="shop", colour=Colour.BLUE, grpc=port, rest=port, folder=folder)
    return slot_part(made, {})


def test_a_slot_without_a_version_is_ready_though_nothing_listens(tmp_path: Path) -> None:
    (tmp_path / ".being-written").mkdir()
    assert slot(tmp_path, free_port()).is_ready()


@pytest.mark.parametrize("listens", (False, True))
def test_a_slot_with_a_version_is_ready_when_it_listens(tmp_path: Path, listens: bool) -> None:
    (tmp_path / "7").mkdir()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        assert slot(tmp_path, server.getsockname()[1]).is_ready() is listens


def test_more_parts_to_wait_for_at_the_start_make_it_no_other_part() -> None:
    shoppers = Part(name="shoppers", command=("ask",), after=("envoy",))
    assert shoppers == Part(name="shoppers", command=("ask",), after=("envoy", "shop-blue"))
    assert shoppers != Part(name="shoppers", command=("ask", "more"), after=("envoy",))
