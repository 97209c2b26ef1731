import threading
from typing import Any

from tasks.serving.status import Code, ServingError
from tasks.serving.version_states import (
    State,
    StateBoard,
    VersionId,
    VersionState,
    settled_versions,
    why_not_available,
)


def row(version: Any, state: Any, error: Any = None, name: Any = "m") -> Any:
    return VersionState(id=VersionId(name=name, version=version), state=state, error=error)


def test_rows_are_newest_version_first_and_never_vanish() -> None:
    board = StateBoard()
    for version, state in ((1, State.AVAILABLE), (2, State.LOADING), (1, State.END)):
        board.publish(row(version, state))
    assert [(r.id.version, r.state) for r in board.rows("m")] == [
        (2, State.LOADING),
        (1, State.END),
    ]
    assert board.rows("ghost") == []


def test_a_name_has_settled_when_one_version_is_available_or_ended() -> None:
    rows = {"m": {1: row(1, State.LOADING)}}
    assert settled_versions(rows, ["m"]) is None
    rows["m"][2] = row(2, State.AVAILABLE)
    assert settled_versions(rows, ["m"]) == {rows["m"][2].id: rows["m"][2]}
    assert settled_versions(rows, ["m", "other"]) is None
    assert settled_versions(rows, []) == {}


def test_a_watch_does_not_know_what_came_before_it() -> None:
    board = StateBoard()
    board.publish(row(1, State.END))
    watch = board.watch_from_now()
    done = threading.Event()

    def wait() -> None:
        watch.wait_until_settled(["m"])
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    assert not done.wait(0.1)
    board.publish(row(1, State.AVAILABLE))
    assert done.wait(5)


def test_a_closed_board_lets_waiters_go() -> None:
    board = StateBoard()
    watch = board.watch_from_now()
    threading.Timer(0.05, board.close).start()
    assert watch.wait_until_settled(["m"]) == {}


def test_failures_are_told_in_tensorflow_servings_words() -> None:
    failed = row(1, State.END, ServingError(Code.NOT_FOUND, "no file"))
    good = row(2, State.AVAILABLE, name="other")
    assert why_not_available({good.id: good}, "model(s)") is None
    assert why_not_available({failed.id: failed, good.id: good}, "model(s)") == (
        "1 model(s) did not become available: {{{name: m version: 1} due to error: "
        "NOT_FOUND: no file}, }"
    )
