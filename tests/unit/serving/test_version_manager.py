"""The manager with real threads and sessions that only count."""

import threading
from pathlib import Path
from typing import Any

import pytest

from tasks.serving.status import Code, ServingError
from tasks.serving.version_manager import LoadOptions, VersionManager
from tasks.serving.version_states import State, StateBoard, VersionId

BROKEN = Path("broken")
GOOD = Path("good")


class CountingSession:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class World:
    def __init__(self, **options: Any) -> None:
        self.board = StateBoard()
        self.loads: list[int] = []
        self.manager = VersionManager(self.load, self.board, LoadOptions(**options))
        self.manager.start(num_initial_threads=2)

    def load(self, version: Any, path: Any) -> Any:
        self.loads.append(version.version)
        if path == BROKEN:
            raise ServingError(Code.DATA_LOSS, "no model")
        return CountingSession()

    def wait(self, version: Any, state: Any) -> Any:
        row = None
        for _ in range(500):
            row = self.board.row(VersionId(name="m", version=version))
            if row is not None and row.state is state:
                return row
            threading.Event().wait(0.01)
        raise AssertionError(f"expected version {version} {state.name}, found {row}")


@pytest.fixture
def world() -> Any:
    made = World(max_retries=0, num_threads=1)
    yield made
    made.manager.stop()


def test_a_request_means_the_highest_loaded_version_unless_it_names_one(world: Any) -> None:
    world.manager.aspire("m", {1: GOOD, 2: GOOD})
    world.wait(1, State.AVAILABLE)
    world.wait(2, State.AVAILABLE)
    assert world.manager.borrow("m", None).id.version == 2
    assert world.manager.borrow("m", 1).id.version == 1


@pytest.mark.parametrize(
    ("name", "version", "text"),
    (
        ("ghost", None, "Latest(ghost)"),
        ("m", 9, "Specific(m, 9)"),
        ("ghost", 9, "Specific(ghost, 9)"),
    ),
)
def test_what_is_not_loaded_is_not_found(world: Any, name: Any, version: Any, text: Any) -> None:
    world.manager.aspire("m", {1: GOOD})
    world.wait(1, State.AVAILABLE)
    with pytest.raises(ServingError, match="Servable not found for request: ") as refused:
        world.manager.borrow(name, version)
    assert refused.value.message.endswith(text)
    assert refused.value.code is Code.NOT_FOUND


def test_a_version_that_fails_leaves_the_old_one_serving_and_is_not_tried_again(world: Any) -> None:
    world.manager.aspire("m", {1: GOOD})
    world.wait(1, State.AVAILABLE)
    world.manager.aspire("m", {2: BROKEN})
    assert world.wait(2, State.END).error.code is Code.DATA_LOSS
    world.manager.aspire("m", {2: GOOD})
    assert world.manager.borrow("m", None).id.version == 1
    assert world.loads == [1, 2]


def test_going_back_from_a_failed_version_frees_its_number(world: World) -> None:
    world.manager.aspire("m", {1: GOOD})
    world.wait(1, State.AVAILABLE)
    world.manager.aspire("m", {2: BROKEN})
    world.wait(2, State.END)
    world.manager.aspire("m", {1: GOOD, 3: GOOD})
    world.wait(3, State.AVAILABLE)
    assert world.manager.borrow("m", 1).id.version == 1
    world.manager.aspire("m", {2: GOOD})
    world.wait(2, State.AVAILABLE)
    world.wait(3, State.END)
    assert world.loads == [1, 2, 3, 2]


def test_an_old_version_closes_only_after_its_last_request(world: Any) -> None:
    world.manager.aspire("m", {1: GOOD})
    world.wait(1, State.AVAILABLE)
    with world.manager.borrow("m", None) as in_flight:
        world.manager.aspire("m", {2: GOOD})
        world.wait(2, State.AVAILABLE)
        world.wait(1, State.UNLOADING)
        assert not in_flight.session.closed.is_set()
        assert world.manager.borrow("m", None).id.version == 2
        with pytest.raises(ServingError, match="Specific"):
            world.manager.borrow("m", 1)
    assert world.wait(1, State.END).error is None
    assert in_flight.session.closed.is_set()


def test_a_version_that_comes_back_while_it_leaves_is_loaded_again(world: Any) -> None:
    world.manager.aspire("m", {1: GOOD})
    world.wait(1, State.AVAILABLE)
    with world.manager.borrow("m", None):
        world.manager.aspire("m", {})
        world.wait(1, State.UNLOADING)
        world.manager.aspire("m", {1: GOOD})
    world.wait(1, State.AVAILABLE)
    assert world.loads == [1, 1]


def test_retries_stop_when_the_version_is_taken_away() -> None:
    world = World(max_retries=1000, retry_interval_seconds=0.05, num_threads=1)
    world.manager.aspire("m", {1: BROKEN})
    world.wait(1, State.LOADING)
    world.manager.aspire("m", {})
    assert world.wait(1, State.END).error.code is Code.DATA_LOSS
    assert len(world.loads) < 100
    world.manager.stop()


def test_a_loader_that_crashes_is_an_error_of_its_version_only() -> None:
    class Crashing(World):
        def load(self, version: Any, path: Any) -> Any:
            message = "out of luck"
            raise RuntimeError(message)

    world = Crashing(max_retries=0)
    world.manager.aspire("m", {1: GOOD})
    row = world.wait(1, State.END)
    assert (row.error.code, row.error.message) == (Code.INTERNAL, "RuntimeError: out of luck")
    world.manager.stop()
