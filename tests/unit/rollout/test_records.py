"""State records as files and as ConfigMaps: one contract, and what only an API can do to us."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.adapters.api_answers import ApiAwayError
from tasks.adapters.config_map_records import ConfigMapRecords, namespace_of
from tasks.adapters.kube_api import KubeApi, server_at
from tasks.adapters.watched_records import WatchedRecords
from tasks.contracts.errors import BadRequestError, StoreUnavailableError
from tasks.rollout.file_records import FileRecords
from tasks.rollout.state import ModelState, open_state
from tests.fake_config_maps import FakeConfigMaps, serving
from tests.fake_kubernetes import eventually
from tests.record_contract import MODEL, RecordContract, ledger

NAME = f"headrace-rollout-{MODEL}"


class TestFiles(RecordContract):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Callable[[], FileRecords]:
        return lambda: FileRecords(state_dir=tmp_path / "state")

    @pytest.fixture
    def records(self, opened: Callable[[], FileRecords]) -> FileRecords:
        return opened()

    @pytest.fixture
    def a_state(self, tmp_path: Path) -> Callable[[], ModelState]:
        return lambda: open_state(tmp_path / "state", MODEL, ledger(tmp_path))


@pytest.fixture
def fake() -> FakeConfigMaps:
    return FakeConfigMaps()


@pytest.fixture
def opened(fake: FakeConfigMaps) -> Iterator[Callable[..., ConfigMapRecords]]:
    with serving(fake) as url:
        api = KubeApi(server_at(url))
        yield lambda **more: ConfigMapRecords(api=api, namespace="prod", **more)


@pytest.fixture
def records(opened: Callable[..., ConfigMapRecords]) -> ConfigMapRecords:
    return opened()


class TestConfigMaps(RecordContract):
    @pytest.fixture
    def a_state(
        self, tmp_path: Path, opened: Callable[..., ConfigMapRecords]
    ) -> Callable[[], ModelState]:
        return lambda: open_state(tmp_path, MODEL, ledger(tmp_path), records=opened())


# What only an API can do


def test_an_answer_that_got_lost_is_asked_for_again_and_the_change_is_made_once(
    fake: FakeConfigMaps, opened: Callable[..., ConfigMapRecords], tmp_path: Path
) -> None:
    state = open_state(tmp_path, MODEL, ledger(tmp_path), records=opened())
    state.reserve_slot("first")
    lost = iter((0,))
    fake.lost = lambda method, _path: next(lost, None) if method == "PUT" else None
    state.promote("first")
    assert [entry.kind for entry in state.history()] == ["slot_reserved", "promoted"]
    assert state.verify() == []


@pytest.mark.parametrize("code", (401, 429, 500, 503, 0))
def test_an_api_that_fails_for_a_moment_is_asked_again(
    fake: FakeConfigMaps, records: ConfigMapRecords, code: int
) -> None:
    told = iter((code, code))
    fake.fault = lambda _method, _path: next(told, None)
    records.update(MODEL, lambda _text: "a")
    assert records.read(MODEL) == b"a"


def test_an_api_that_stays_away_ends_the_change_in_bounded_time_and_nothing_is_written(
    fake: FakeConfigMaps, opened: Callable[..., ConfigMapRecords]
) -> None:
    fake.fault = lambda _method, _path: 503
    with pytest.raises(StoreUnavailableError, match="GET .*/headrace-rollout-shop: .* 503 as told"):
        opened(patience_seconds=0.3).update(MODEL, lambda _text: "a")
    assert fake.maps == {}


def test_who_loses_every_race_is_told_so_in_bounded_time(
    fake: FakeConfigMaps, opened: Callable[..., ConfigMapRecords]
) -> None:
    opened().update(MODEL, lambda _text: "a")
    fake.fault = lambda method, _path: 409 if method == "PUT" else None
    with pytest.raises(StoreUnavailableError, match="others changed it again and again"):
        opened(patience_seconds=0.3).update(MODEL, lambda _text: "b")


def test_a_right_that_is_missing_is_named_and_not_waited_for(
    fake: FakeConfigMaps, records: ConfigMapRecords
) -> None:
    fake.fault = lambda method, _path: 403 if method == "POST" else None
    with pytest.raises(
        BadRequestError, match="create headrace-rollout-shop in namespace prod: ref"
    ):
        records.update(MODEL, lambda _text: "a")


def test_a_config_map_that_the_chart_made_empty_is_filled_and_keeps_its_labels(
    fake: FakeConfigMaps, records: ConfigMapRecords
) -> None:
    labels = {"helm.sh/chart": "headrace", "headrace/model": MODEL}
    made = {"metadata": {"name": NAME, "labels": labels}}
    assert fake.answer("POST", "/api/v1/namespaces/prod/configmaps", made)[0] == 201
    assert records.models() == []
    records.update(MODEL, lambda _text: "a")
    assert fake.maps[NAME]["metadata"]["labels"] == labels
    assert records.models() == [MODEL]


def test_a_record_too_large_for_a_config_map_is_refused_with_the_apis_words(
    records: ConfigMapRecords,
) -> None:
    records.update(MODEL, lambda _text: "a")
    with pytest.raises(BadRequestError, match="refused with 4.*1048576 bytes"):
        records.update(MODEL, lambda _text: "b" * 1024 * 1024 + "c")


@pytest.mark.parametrize("url", ("configmap://", "configmap://Prod", "secret://prod", "prod"))
def test_a_place_that_names_no_namespace_is_refused(url: str) -> None:
    with pytest.raises(BadRequestError, match="expected configmap://NAMESPACE"):
        namespace_of(url)
    assert namespace_of("configmap://prod-1") == "prod-1"


def test_an_api_that_nobody_serves_is_away(free_port: int) -> None:
    api = KubeApi(server_at(f"http://127.0.0.1:{free_port}"))
    with pytest.raises(ApiAwayError, match="it is tried again"):
        api.call("GET", "/version")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# The keeper's watch


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watched(
    opened: Callable[..., ConfigMapRecords], said: list[str]
) -> Iterator[Callable[[], WatchedRecords]]:
    made = []

    def start() -> WatchedRecords:
        records = opened(names=(MODEL,), patience_seconds=0.0)
        one = WatchedRecords(records=records, say=said.append, retry_seconds=0.1)
        made.append(one)
        one.start()
        eventually(lambda: one.unseen() == [])
        return one

    yield start
    for one in made:
        one.close()


def test_two_watches_follow_a_change_within_two_seconds(
    watched: Callable[[], WatchedRecords], records: ConfigMapRecords
) -> None:
    both = watched(), watched()
    assert [one.models() for one in both] == [[MODEL], [MODEL]]  # seen, and without a release yet
    assert [one.read(MODEL) for one in both] == [None, None]
    for text in ("a", "b"):
        records.update(MODEL, lambda _text, new=text: new)
        for one in both:
            eventually(lambda one=one, new=text: one.read(MODEL) == new.encode(), 2.0)
    assert both[0].models() == [MODEL]


def test_without_an_answer_of_the_api_no_model_is_seen(
    opened: Callable[..., ConfigMapRecords], fake: FakeConfigMaps, said: list[str]
) -> None:
    fake.fault = lambda _method, _path: 503
    records = opened(names=(MODEL,), patience_seconds=0.0)
    one = WatchedRecords(records=records, say=said.append, retry_seconds=0.1)
    one.start()
    eventually(lambda: said)
    assert (one.models(), one.unseen()) == ([], [MODEL])
    one.close()


def test_a_comparators_watch_speaks_as_a_comparator(
    opened: Callable[..., ConfigMapRecords], fake: FakeConfigMaps, said: list[str]
) -> None:
    fake.fault = lambda _method, _path: 503
    records = opened(names=(MODEL,), patience_seconds=0.0)
    one = WatchedRecords(records=records, say=said.append, who="shadow", retry_seconds=0.1)
    one.start()
    eventually(lambda: said)
    assert said[0].startswith(f"shadow: {MODEL}: the last record goes on: ")
    one.close()


def test_a_look_of_the_keeper_asks_the_api_nothing(
    watched: Callable[[], WatchedRecords], fake: FakeConfigMaps
) -> None:
    one = watched()
    before = len(fake.asked)
    for _ in range(100):
        one.read(MODEL)
        one.models()
    assert len(fake.asked) == before


def test_the_last_record_goes_on_while_the_api_is_away_and_the_newest_comes_when_it_is_back(
    watched: Callable[[], WatchedRecords],
    records: ConfigMapRecords,
    fake: FakeConfigMaps,
    said: list[str],
) -> None:
    records.update(MODEL, lambda _text: "a")
    one = watched()
    fake.fault = lambda _method, _path: 503
    eventually(lambda: said)
    assert one.read(MODEL) == b"a"
    with pytest.raises(StoreUnavailableError):
        one.update(MODEL, lambda _text: "b")
    assert one.read(MODEL) == b"a"
    fake.fault = lambda _method, _path: None
    records.update(MODEL, lambda _text: "c")
    eventually(lambda: one.read(MODEL) == b"c", 2.0)


def test_changes_that_the_api_keeps_no_more_are_made_up_for_by_a_new_list(
    watched: Callable[[], WatchedRecords], records: ConfigMapRecords, fake: FakeConfigMaps
) -> None:
    records.update(MODEL, lambda _text: "a")
    one = watched()
    fake.version += 5
    fake.compact()  # what is watched from is too old now
    eventually(lambda: sum("?fieldSelector" in asked for asked in fake.asked) >= 2)
    records.update(MODEL, lambda _text: "b")
    eventually(lambda: one.read(MODEL) == b"b", 2.0)


def test_a_config_map_that_is_deleted_takes_no_user_anywhere(
    watched: Callable[[], WatchedRecords],
    records: ConfigMapRecords,
    fake: FakeConfigMaps,
    said: list[str],
) -> None:
    records.update(MODEL, lambda _text: "a")
    one = watched()
    fake.answer("DELETE", f"/api/v1/namespaces/prod/configmaps/{NAME}", None)
    eventually(lambda: any("was deleted" in sentence for sentence in said))
    assert one.read(MODEL) == b"a"
    records.update(MODEL, lambda _text: "made anew")
    eventually(lambda: one.read(MODEL) == b"made anew", 2.0)


def test_an_event_of_before_does_not_undo_what_an_update_of_ours_has_shown(
    watched: Callable[[], WatchedRecords], records: ConfigMapRecords
) -> None:
    records.update(MODEL, lambda _text: "a")
    one = watched()
    eventually(lambda: one.read(MODEL) == b"a")
    late = records.kept(MODEL)
    one.update(MODEL, lambda _text: "b")
    assert one.read(MODEL) == b"b"
    one._take(MODEL, late)
    assert one.read(MODEL) == b"b"
