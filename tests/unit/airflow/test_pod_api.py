from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException
from headrace_airflow.pod_api import (
    ApiAwayError,
    LogPlace,
    Patience,
    PodApi,
    QuotaFullError,
    SharedConnection,
    connect,
    stamped,
    unseen,
)

from tasks.contracts.errors import BadRequestError
from tests.fake_kubernetes import FakeKubernetes, kubeconfig, serving, status
from tests.ports import free_port

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}}}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    kubernetes = FakeKubernetes()
    with serving(kubernetes, tmp_path) as config:
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield kubernetes


@pytest.fixture
def api(fake: FakeKubernetes) -> PodApi:
    assert os.environ["KUBECONFIG"]
    return PodApi("ns", Patience(seconds=20, pause=lambda _: None))


def times(count: int, answer: Any) -> Any:
    """Return a fault that answers so a number of times."""
    left = [count]

    def fault(method: str, path: str) -> Any:
        left[0] -= 1
        return answer if left[0] >= 0 else None

    return fault


def test_a_pod_is_made_read_and_deleted(api: PodApi) -> None:
    made = api.create(POD)
    assert made is not None
    uid = made["metadata"]["uid"]
    assert api.read_own("p", uid) == api.read("p")
    assert [one["metadata"]["name"] for one in api.labelled("a=b")] == ["p"]
    assert api.labelled("a=c") == []
    api.delete_own("p", uid)
    assert api.read("p") is None
    api.delete_own("p", uid)  # gone already is as good


def test_a_taken_name_is_no_error(api: PodApi) -> None:
    assert api.create(POD) is not None
    assert api.create(POD) is None


def test_another_uid_is_neither_read_nor_deleted(api: PodApi, fake: FakeKubernetes) -> None:
    api.create(POD)
    assert api.read_own("p", "another") is None
    api.delete_own("p", "another")
    assert "p" in fake.pods


@pytest.mark.parametrize(
    "answer",
    (
        pytest.param((429, status(429, "TooManyRequests"), {"Retry-After": "1"}), id="429"),
        pytest.param((500, status(500, "InternalError"), {}), id="500"),
        pytest.param((503, {}, {}), id="503 without a body"),
        pytest.param((0, None, {}), id="hung up"),
        pytest.param(
            (409, status(409, "Conflict", kind="resourcequotas"), {}), id="409 of a quota"
        ),
        pytest.param((404, {}, {}), id="a 404 that is not the API's"),
        pytest.param((401, status(401, "Unauthorized"), {}), id="401: credentials are read anew"),
    ),
)
def test_what_passes_is_asked_again(api: PodApi, fake: FakeKubernetes, answer: Any) -> None:
    fake.fault = times(3, answer)
    assert api.create(POD) is not None
    assert len(fake.created) == 1


def test_many_share_a_connection_until_its_credentials_are_refused(fake: FakeKubernetes) -> None:
    made = []

    def connected() -> Any:
        made.append(connect())
        return made[-1]

    shared = SharedConnection(connected)
    one, other = (
        PodApi("ns", Patience(seconds=20, pause=lambda _: None), shared.connected, shared.forget)
        for _ in range(2)
    )
    assert one.read("p") is None
    assert other.read("p") is None
    assert len(made) == 1
    fake.fault = times(1, (401, status(401, "Unauthorized"), {}))
    assert one.read("p") is None
    fake.fault = times(1, (401, status(401, "Unauthorized"), {}))
    assert other.read("p") is None  # its old client was refused; the new one is there already
    assert len(made) == 2


def test_a_shared_connection_follows_an_api_that_moved(
    fake: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SharedConnection()
    api = PodApi("ns", Patience(seconds=0), shared.connected, shared.forget)
    now = os.environ["KUBECONFIG"]
    old = kubeconfig(tmp_path / "old", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("KUBECONFIG", str(old))
    with pytest.raises(ApiAwayError):
        api.read("p")
    monkeypatch.setenv("KUBECONFIG", now)
    assert api.read("p") is None


def test_an_api_that_stays_away_is_given_up_with_a_sentence(fake: FakeKubernetes) -> None:
    fake.fault = times(1000, (500, {}, {}))
    with pytest.raises(ApiAwayError, match="expected an answer to read in namespace ns within"):
        PodApi("ns", Patience(seconds=0.2)).read("p")


def test_a_creation_whose_answer_was_lost_is_found_again(api: PodApi, fake: FakeKubernetes) -> None:
    api.create(POD)  # the answer never came; we ask again
    assert api.create(POD) is None
    found = api.read("p")
    assert found is not None
    assert len(fake.created) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    (
        pytest.param((422, status(422, "Invalid"), {}), BadRequestError, id="an invalid pod"),
        pytest.param((403, status(403, "Forbidden"), {}), AirflowException, id="no permission"),
        pytest.param(
            (403, status(403, "Forbidden", message="exceeded quota: pods"), {}),
            QuotaFullError,
            id="a full quota",
        ),
        pytest.param(
            (404, status(404, "NotFound", kind="namespaces"), {}),
            AirflowException,
            id="no such namespace",
        ),
    ),
)
def test_what_does_not_pass_is_said(
    api: PodApi, fake: FakeKubernetes, answer: Any, error: type[Exception]
) -> None:
    fake.fault = times(1, answer)
    with pytest.raises(error, match=r"p in namespace ns: answered \d+"):
        api.create(POD)


def test_a_missing_namespace_does_not_prove_a_pod_gone(api: PodApi, fake: FakeKubernetes) -> None:
    fake.fault = times(1, (404, status(404, "NotFound", kind="namespaces"), {}))
    with pytest.raises(AirflowException, match="answered 404"):
        api.read("p")


def test_a_log_is_read_by_lines(api: PodApi, fake: FakeKubernetes) -> None:
    api.create(POD)
    fake.logs["p"] = "2026-11-25T10:00:00.1Z one\n2026-11-25T10:00:00.12Z two"
    lines = api.log_lines("p", follow=False, since=None)
    assert [text for _, text in unseen(lines, LogPlace())] == ["one", "two"]


def test_times_sort_although_their_digits_are_cut() -> None:
    early, late = stamped("2026-11-25T10:00:00.1Z a"), stamped("2026-11-25T10:00:00.12Z b")
    assert early < late
    assert stamped("no time in front") == ("", "no time in front")


def test_a_log_opened_again_repeats_nothing_and_loses_nothing() -> None:
    first = ["2026-11-25T10:00:00Z a", "2026-11-25T10:00:01Z b", "2026-11-25T10:00:01Z c"]
    again = [*first[1:], "2026-11-25T10:00:01Z d", "2026-11-25T10:00:02Z e"]
    *_, (place, _) = unseen(iter(first), LogPlace())
    assert [text for _, text in unseen(iter(again), place)] == ["d", "e"]


@pytest.mark.parametrize("chunked", (True, False), ids=("in chunks", "until the connection ends"))
def test_a_line_of_the_log_is_there_before_the_next_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    seen = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            name, value = ("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")
            self.send_header(name, value)
            self.end_headers()
            self.close_connection = not chunked
            self.write(b"first\n")
            if seen.wait(10):
                self.write(b"second\n")
            self.write(b"")

        def write(self, line: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line) if chunked else line)
            self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    config = kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("KUBECONFIG", str(config))
    try:
        lines = PodApi("ns", Patience()).log_lines("p", follow=True, since=None)
        assert next(lines) == "first"
        seen.set()
        assert list(lines) == ["second"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
