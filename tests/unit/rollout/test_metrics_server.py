from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.rollout.metrics_server import serving_metrics


def test_metrics_are_the_bytes_of_the_file_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "metrics.prom"
    with serving_metrics(path, "127.0.0.1", 0) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        early = httpx.get(url, trust_env=False)
        assert (early.status_code, "nothing of Envoy yet" in early.text) == (503, True)
        for text in ("headrace_x 1\n", "headrace_x 2\n"):
            path.write_text(text)
            answer = httpx.get(url, trust_env=False)
            assert (answer.status_code, answer.text) == (200, text)
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_nothing_else_is_served(tmp_path: Path) -> None:
    (tmp_path / "metrics.prom").write_text("x 1\n")
    (tmp_path / "user.key").write_text("secret")
    with serving_metrics(tmp_path / "metrics.prom", "127.0.0.1", 0) as port:
        for path in ("/", "/user.key", "/metrics/../user.key", "/metrics.prom"):
            answer = httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False)
            assert (answer.status_code, "secret" in answer.text) == (404, False)
        assert httpx.post(f"http://127.0.0.1:{port}/metrics", trust_env=False).status_code == 501


def test_who_asks_and_says_nothing_holds_up_nobody(tmp_path: Path) -> None:
    (tmp_path / "metrics.prom").write_text("x 1\n")
    with (
        serving_metrics(tmp_path / "metrics.prom", "127.0.0.1", 0) as port,
        socket.create_connection(("127.0.0.1", port or 0)),
    ):
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=5)
        assert answer.status_code == 200


def test_without_a_port_nobody_listens_and_a_taken_one_is_refused(tmp_path: Path) -> None:
    with serving_metrics(tmp_path / "x", "127.0.0.1", None) as port:
        assert port is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with (
            pytest.raises(BadRequestError, match=f"--metrics-port: expected to listen .*{number}"),
            serving_metrics(tmp_path / "x", "127.0.0.1", number),
        ):
            pass
