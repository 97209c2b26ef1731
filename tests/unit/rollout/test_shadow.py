from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.adapters.config_map_records import named_records
from tasks.adapters.watched_records import watched_records
from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.rollout.comparison import ShadowReport
from tasks.rollout.file_records import FileRecords
from tasks.rollout.shadow import MAX_PAIRS, Comparator, Inbox, Mirrored, rest_requests
from tasks.rollout.shadow_routes import ShadowAddress, read_shadow
from tasks.rollout.state import ModelState, open_state
from tests.fake_config_maps import FakeConfigMaps, serving
from tests.fake_kubernetes import eventually, kubeconfig

REQUEST = Mirrored(model="shop", body=b"{}")


Answers = Callable[[httpx.Request], httpx.Response]


class Slots:
    """Answers of both slots, by port; what they were asked is kept."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.items = {"1": ["a", "b"], "2": ["a", "c"]}
        self.fails = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        if self.fails:
            return httpx.Response(503)
        version = request.url.path.split("/versions/")[1].split(":")[0]
        outputs = {"items": [self.items[version]], "scores": [[1.0, 0.5]]}
        return httpx.Response(200, json={"outputs": outputs})


@pytest.fixture
def state(tmp_path: Path) -> ModelState:
    made = open_state(tmp_path, "shop")
    made.reserve_slot("first")
    made.promote("first")
    ports = {"blue": 1, "green": 3, "violet": 5}
    slots = {colour: {"grpc": port, "rest": port + 1} for colour, port in ports.items()}
    text = json.dumps({"format": "slots/1", "model": "shop", "slots": slots})
    (tmp_path / "shop" / "slots.json").write_text(text)
    return made


def comparator(folder: Path, slots: Answers, **others: Any) -> Comparator:
    client = httpx.Client(transport=httpx.MockTransport(slots))
    clock = iter(range(0, 10_000, 10)).__next__
    return Comparator(
        state_dir=folder, client=client, **{"ask_grpc": nobody, "monotonic": clock, **others}
    )


def nobody(address: str, _request: bytes, _version: int) -> dict[str, Any]:
    raise HeadraceError(f"{address}: expected no question by gRPC")


def report(folder: Path) -> ShadowReport:
    path = folder / "shop" / "traffic" / "r2" / "shadow.json"
    return ShadowReport.parse(path.read_bytes(), str(path))


def test_a_staged_candidate_is_compared_before_any_user_meets_it(
    state: ModelState, tmp_path: Path
) -> None:
    state.reserve_slot("second")
    slots = Slots()
    made = comparator(tmp_path, slots)
    made.inbox.put(REQUEST)
    assert made.turn() is True
    made.write()
    assert slots.asked == [
        "http://127.0.0.1:4/v1/models/shop/versions/2:predict",
        "http://127.0.0.1:2/v1/models/shop/versions/1:predict",
    ]
    found = report(tmp_path)
    assert (found.model, found.candidate, found.stable, found.compared) == ("shop", 2, 1, 1)
    assert found.overlap["10"] == 0.5


def test_classifiers_are_compared_by_the_class_that_they_put_first(
    state: ModelState, tmp_path: Path
) -> None:
    state.reserve_slot("second")
    answers = {"1": (["bag", "coat"], [0.75, 0.25]), "2": (["coat", "bag"], [0.5, 0.5])}

    def classes(request: httpx.Request) -> httpx.Response:
        version = request.url.path.split("/versions/")[1].split(":")[0]
        ranked, scores = answers[version]
        outputs = {"classes": [ranked], "scores": [scores]}
        return httpx.Response(200, json={"outputs": outputs})

    made = comparator(tmp_path, classes)
    for _ in range(2):
        made.inbox.put(REQUEST)
        made.turn()
        answers["2"] = answers["1"]
    made.write()
    found = report(tmp_path)
    assert (found.compared, found.equal) == (2, 1)
    assert (found.overlap["1"], found.overlap["10"]) == (0.5, 1.0)
    # coat .5 - .25, bag .5 - .75, and 0 for both of the second request.
    assert (found.score_differences["0.5"], found.score_differences["0.99"]) == (0.0, 0.2425)


def test_on_a_cluster_slots_are_asked_by_the_names_of_their_services(
    state: ModelState, tmp_path: Path
) -> None:
    state.reserve_slot("second")
    slots, asked = Slots(), []
    by_name = comparator(
        tmp_path,
        slots,
        slot_host="headrace-{model}-{colour}.prod.svc",
        ask_grpc=lambda address, _request, _version: asked.append(address) or {},
    )
    for protocol in ("rest", "grpc"):
        by_name.inbox.put(Mirrored(model="shop", body=b"{}", protocol=protocol))
        by_name.turn()
    assert slots.asked == [
        "http://headrace-shop-green.prod.svc:8501/v1/models/shop/versions/2:predict",
        "http://headrace-shop-blue.prod.svc:8501/v1/models/shop/versions/1:predict",
    ]
    assert asked == ["headrace-shop-green.prod.svc:8500", "headrace-shop-blue.prod.svc:8500"]


def test_on_a_cluster_slots_are_compared_by_the_record_that_the_watch_has_brought(
    tmp_path: Path,
) -> None:
    fake = FakeConfigMaps()
    with serving(fake) as url:
        environment = {
            "KUBECONFIG": str(kubeconfig(tmp_path / "kubeconfig", url)),
            "HEADRACE_ROLLOUT_STATE": "configmap://prod",
            "HEADRACE_MODELS": "shop",
        }
        api = named_records(environment)
        assert api is not None
        released = open_state(tmp_path, "shop", records=api)
        released.reserve_slot("first")
        released.promote("first")
        released.reserve_slot("second")
        watched = watched_records(environment, who="shadow", say=print)
        assert watched is not None
        watched.start()
        eventually(lambda: watched.read("shop"))
        changes = [asked for asked in fake.asked if not asked.startswith("GET ")]
        slots, host = Slots(), "headrace-{model}-{colour}.prod.svc"
        made = comparator(tmp_path, slots, records=watched, slot_host=host)
        made.inbox.put(REQUEST)
        made.turn()
        made.write()
        watched.close()
        assert [asked for asked in fake.asked if not asked.startswith("GET ")] == changes
    assert len(slots.asked) == 2
    found = report(tmp_path)
    assert (found.candidate, found.stable, found.compared) == (2, 1, 1)
    assert not (tmp_path / "shop/state.json").exists()


def test_a_model_of_no_watched_record_is_asked_of_nobody(state: ModelState, tmp_path: Path) -> None:
    state.reserve_slot("second")
    slots = Slots()
    elsewhere = FileRecords(state_dir=tmp_path / "empty")
    made = comparator(tmp_path, slots, records=elsewhere)
    made.inbox.put(REQUEST)
    made.turn()
    assert (slots.asked, made.inbox.dropped) == ([], {"no candidate": 1})


def test_without_a_candidate_nobody_is_asked(state: ModelState, tmp_path: Path) -> None:
    slots = Slots()
    made = comparator(tmp_path, slots)
    made.inbox.put(REQUEST)
    made.turn()
    assert (slots.asked, made.inbox.dropped) == ([], {"no candidate": 1})
    assert not list(tmp_path.glob("shop/traffic/*/shadow.json"))


def test_a_slot_that_fails_is_counted_and_the_next_request_is_compared(
    state: ModelState, tmp_path: Path
) -> None:
    state.reserve_slot("second")
    slots = Slots()
    made = comparator(tmp_path, slots)
    for fails in (True, False):
        slots.fails = fails
        made.inbox.put(REQUEST)
        made.turn()
    made.write()
    assert (report(tmp_path).compared, made.inbox.dropped) == (1, {"slot": 1})


def test_an_answer_that_ranks_nothing_is_counted(state: ModelState, tmp_path: Path) -> None:
    state.reserve_slot("second")
    made = comparator(tmp_path, _empty)
    made.inbox.put(REQUEST)
    made.turn()
    assert made.inbox.dropped == {"not comparable": 1}


def _empty(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"outputs": [0.25]})


def test_slots_are_asked_at_a_bounded_pace(state: ModelState, tmp_path: Path) -> None:
    state.reserve_slot("second")
    slots = Slots()
    now = [0.0]
    made = comparator(tmp_path, slots, monotonic=lambda: now[0], max_per_second=10.0)
    for number in range(100):
        now[0] = 100 + number / 100  # 100 a second, for one second
        made.inbox.put(REQUEST)
        made.turn(0.01)
    assert 9 <= len(slots.asked) // 2 <= 11
    assert made.inbox.dropped["pace"] == 100 - len(slots.asked) // 2


def test_a_full_queue_drops_and_counts() -> None:
    inbox = Inbox(limit=2)
    assert [inbox.put(REQUEST) for _ in range(4)] == [True, True, False, False]
    assert inbox.dropped == {"queue": 2}


def test_another_candidate_is_another_report(state: ModelState, tmp_path: Path) -> None:
    state.reserve_slot("second")
    slots = Slots()
    slots.items["3"] = ["a", "b"]
    made = comparator(tmp_path, slots)
    made.inbox.put(REQUEST)
    made.turn()
    state.roll_back("second")
    state.reserve_slot("third")
    made.inbox.put(REQUEST)
    made.turn()
    made.write()
    assert report(tmp_path).compared == 1
    third = tmp_path / "shop" / "traffic" / "r3" / "shadow.json"
    assert ShadowReport.parse(third.read_bytes(), "here").overlap["10"] == 1.0


@pytest.mark.parametrize("percent", (-1.0, 100.5, float("nan")))
def test_a_share_that_is_none_is_refused(percent: float) -> None:
    with pytest.raises(BadRequestError, match="expected a percentage from 0 to 100"):
        ShadowAddress(port=1, percent=percent)


@pytest.mark.parametrize(
    "said",
    (
        pytest.param({"host": ""}, id="no host"),
        pytest.param({"host": "headrace shadow"}, id="no host's name"),
        pytest.param({"port": 0}, id="a port that is to be chosen"),
        pytest.param({"grpc": 65_536}, id="a port that there is not"),
    ),
)
def test_an_address_that_envoy_would_not_take_is_refused(said: dict[str, Any]) -> None:
    """In a file of clusters it would cost all others their next change."""
    with pytest.raises(BadRequestError, match="expected a host name or address with ports of 1 to"):
        ShadowAddress(**{"port": 1, "grpc": 2, "percent": 5.0, **said})
    assert ShadowAddress(host="::1", port=1, grpc=65_535, percent=5.0)


def test_an_address_of_another_machine_is_named() -> None:
    with (
        pytest.raises(BadRequestError, match=r"expected to listen on 192\.0\.2\.1:9911, found"),
        rest_requests("192.0.2.1", 9911, Inbox()),
    ):
        pass


def test_what_came_by_grpc_is_asked_by_grpc(state: ModelState, tmp_path: Path) -> None:
    state.reserve_slot("second")
    asked = []
    ranked = {1: [["a", "b"]], 2: [["a", "c"]]}

    def ask(address: str, request: bytes, version: int) -> dict[str, Any]:
        asked.append((address, request, version))
        return {"items": ranked[version], "scores": [[1.0, 0.5]]}

    slots = Slots()
    made = comparator(tmp_path, slots, ask_grpc=ask)
    made.inbox.put(Mirrored(model="shop", body=b"tensors", protocol="grpc"))
    made.turn()
    made.write()
    assert asked == [("127.0.0.1:3", b"tensors", 2), ("127.0.0.1:1", b"tensors", 1)]
    assert slots.asked == []
    found = report(tmp_path)
    assert (found.compared, found.overlap["1"], found.overlap["10"]) == (1, 1.0, 0.5)


def test_a_slot_that_fails_by_grpc_is_counted(state: ModelState, tmp_path: Path) -> None:
    state.reserve_slot("second")
    made = comparator(tmp_path, Slots())
    made.inbox.put(Mirrored(model="shop", body=b"", protocol="grpc"))
    made.turn()
    assert made.inbox.dropped == {"slot": 1}


def test_what_the_comparator_says_of_itself_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "shadow.json"
    assert read_shadow(path) is None
    for grpc in (9913, None):
        address = ShadowAddress(port=9911, percent=5.0, grpc=grpc)
        path.write_text(address.to_text())
        assert read_shadow(path) == address
    for number in (1, 2):
        path.write_text(f'{{"format": "shadow_address/{number}"}}')
        with pytest.raises(BadRequestError, match="host, ports and percent"):
            read_shadow(path)
    path.write_text('{"format": "shadow_address/3"}')
    with pytest.raises(BadRequestError, match="written by a newer Headrace"):
        read_shadow(path)


def test_what_a_comparator_of_before_said_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "shadow.json"
    fields = '"host": "127.0.0.1", "port": 9911, "percent": 5.0'
    path.write_text(f'{{"format": "shadow_address/1", {fields}}}')
    assert read_shadow(path) == ShadowAddress(port=9911, percent=5.0)


@pytest.mark.parametrize("protocol", ("rest", "grpc"))
@pytest.mark.parametrize("model", ("", "../shop", "Shop", "router", "shop\n", "x" * 41))
def test_what_names_no_model_is_dropped_before_it_waits(model: str, protocol: Any) -> None:
    inbox = Inbox()
    assert inbox.put(Mirrored(model=model, body=b"{}", protocol=protocol)) is False
    assert (inbox.take(0.0), inbox.dropped) == (None, {"path": 1})


def test_names_that_clients_make_up_are_not_remembered_without_end(
    state: ModelState, tmp_path: Path
) -> None:
    state.reserve_slot("second")
    slots = Slots()
    made = comparator(tmp_path, slots)
    for number in range(MAX_PAIRS + 40):
        made.inbox.put(Mirrored(model=f"made-up-{number}", body=b"{}"))
        made.turn()
    made.inbox.put(REQUEST)
    made.turn()
    assert len(made._pairs) == MAX_PAIRS
    assert made.inbox.dropped == {"no candidate": MAX_PAIRS + 40}
    assert len(slots.asked) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"shop"}
