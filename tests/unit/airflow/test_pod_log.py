from __future__ import annotations

from pathlib import Path

import pytest
from headrace_airflow.pod_api import Patience, PodApi
from headrace_airflow.pod_life import LogFollower

from tests.fake_kubernetes import FakeKubernetes, serving

FIRST = "2026-11-25T10:00:00.000000001Z first\n"
SECOND = "2026-11-25T10:00:01.000000001Z second\n"


def test_only_a_log_that_brought_lines_says_that_the_pods_end_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, said = FakeKubernetes(), list[str]()
    fake.pods["p"] = {"metadata": {"name": "p", "uid": "u"}, "status": {"phase": "Running"}}
    with serving(fake, tmp_path) as config:
        monkeypatch.setenv("KUBECONFIG", str(config))
        log = LogFollower(PodApi("ns", Patience(seconds=1)), "p", said.append)
        log._done.set()
        assert not log.closing
        fake.logs["p"] = FIRST
        log._read()
        assert log.closing
        log._closed_at -= 60  # a minute later
        log._read()  # the same line again: it is known
        assert not log.closing
        fake.logs["p"] = FIRST + SECOND
        log._read()
        assert log.closing
    assert said == ["first", "second"]
