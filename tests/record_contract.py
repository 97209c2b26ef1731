"""What every place of state records must do: run over files, over the fake API and over a real one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.record_store import RecordStore
from tasks.rollout.state import ModelState

MODEL = "shop"
RACERS = 50
Open = Callable[[], RecordStore]  # a place of its own for each racer, as a process has


class RecordContract:
    """Subclasses give the fixtures `records`, `opened` (more doors to the same place), `a_state`."""

    def test_there_is_no_record_before_the_first_change(self, records: RecordStore) -> None:
        assert records.read(MODEL) is None
        assert records.models() == []

    def test_what_was_written_is_read_by_another_door(
        self, records: RecordStore, opened: Open
    ) -> None:
        records.update(MODEL, lambda _text: "one\u00e9\n")
        assert opened().read(MODEL) == "one\u00e9\n".encode()
        assert opened().models() == [MODEL]

    def test_a_change_gets_the_newest_text(self, records: RecordStore, opened: Open) -> None:
        seen = []
        for text in ("a", "b", "c"):
            opened().update(MODEL, lambda old, new=text: (seen.append(old), new)[1])
        assert seen == [None, b"a", b"b"]
        assert records.read(MODEL) == b"c"

    def test_a_change_to_nothing_changes_nothing(self, records: RecordStore) -> None:
        records.update(MODEL, lambda _text: None)
        assert records.read(MODEL) is None
        records.update(MODEL, lambda _text: "a")
        records.update(MODEL, lambda _text: None)
        assert records.read(MODEL) == b"a"

    def test_a_change_that_refuses_writes_nothing(self, records: RecordStore) -> None:
        records.update(MODEL, lambda _text: "a")

        def refuse(_text: bytes | None) -> str:
            message = "refused"
            raise BadRequestError(message)

        with pytest.raises(BadRequestError, match="refused"):
            records.update(MODEL, refuse)
        assert records.read(MODEL) == b"a"

    def test_no_count_is_lost_among_fifty_who_count(
        self, records: RecordStore, opened: Open
    ) -> None:
        together = Barrier(RACERS)

        def count(_number: int) -> None:
            mine = opened()
            together.wait()
            mine.update(MODEL, lambda text: str(int(text or b"0") + 1))

        with ThreadPoolExecutor(RACERS) as pool:
            list(pool.map(count, range(RACERS)))
        assert records.read(MODEL) == str(RACERS).encode()

    def test_fifty_who_promote_one_release_get_one_entry(
        self, a_state: Callable[[], ModelState]
    ) -> None:
        a_state().reserve_slot("first")
        together = Barrier(RACERS)

        def promote(_number: int) -> str:
            state = a_state()
            together.wait()
            return state.promote("first").digest

        with ThreadPoolExecutor(RACERS) as pool:
            digests = set(pool.map(promote, range(RACERS)))
        state = a_state()
        history = [(entry.kind, entry.release_id) for entry in state.history()]
        assert history == [("slot_reserved", "first"), ("promoted", "first")]
        assert digests == {state.history()[-1].digest}
        assert state.verify() == []

    def test_of_fifty_releases_one_is_staged_and_the_others_are_told_whose(
        self, a_state: Callable[[], ModelState]
    ) -> None:
        together = Barrier(RACERS)

        def reserve(number: int) -> str:
            state = a_state()
            together.wait()
            try:
                return f"reserved {state.reserve_slot(f'release-{number}').release_number}"
            except BadRequestError as error:
                return f"refused {error}"

        with ThreadPoolExecutor(RACERS) as pool:
            said = list(pool.map(reserve, range(RACERS)))
        assert Counter(one.split()[0] for one in said) == {"reserved": 1, "refused": RACERS - 1}
        winner = a_state().peek().release_id
        refused = [one for one in said if one.startswith("refused")]
        assert all(f"release {winner} is in progress (number 1," in one for one in refused)
        assert [entry.release_id for entry in a_state().history()] == [winner]
        assert a_state().verify() == []


def ledger(folder: object) -> ObjectStore:
    """Return a ledger's store below a folder."""
    return ObjectStore(f"file://{folder}/store")
