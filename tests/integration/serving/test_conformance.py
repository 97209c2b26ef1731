"""TensorFlow Serving's observable behaviour, case by case, from $HEADRACE_TFSERVING_CASES."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.serving.conformance_cases import (
    StepRunner,
    cases_folder,
    default_server,
    read_cases,
    run_grpc_case,
    run_rest_case,
)
from tests.integration.serving.running_server import RunningServer

# Cases that need --enable_batching, which headrace serve refuses: docs/serving-conformance.md.
KNOWN_DIFFERENCES = {"lc-55-batching-scalar-input", "lc-57-batching-task-too-large"}
NO_CASES = "set HEADRACE_TFSERVING_CASES to a folder with conformance.jsonl and fixtures.py"
SERVERS_AT_ONCE = 4

FOLDER = cases_folder()
CASES = read_cases(FOLDER) if FOLDER else []
REQUESTS = [case for case in CASES if case["transport"] != "steps"]
LIFECYCLE = [
    case for case in CASES if case["transport"] == "steps" and case["id"] not in KNOWN_DIFFERENCES
]


def named(cases: list[dict[str, Any]]) -> list[Any]:
    skipped = pytest.param({}, marks=pytest.mark.skip(reason=NO_CASES), id="no cases")
    return [pytest.param(case, id=case["id"]) for case in cases] or [skipped]


@pytest.fixture(scope="session")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models that the cases speak of, written by the cases' own script."""
    assert FOLDER is not None
    out = tmp_path_factory.mktemp("fixtures")
    script = str(FOLDER / "fixtures.py")
    subprocess.run([sys.executable, script, str(out)], check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def servers(
    fixtures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, ...], RunningServer]]:
    """One server for each set of flags that request cases ask for."""
    started: dict[tuple[str, ...], RunningServer] = {}
    for case in REQUESTS:
        flags = tuple(case.get("flags", ()))
        if flags not in started:
            work = tmp_path_factory.mktemp("server")
            started[flags] = default_server(fixtures, work, list(flags))
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture(scope="module")
def lifecycles(
    fixtures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[list[str]]]]:
    """All lifecycle cases, several at once: they mostly wait."""
    with ThreadPoolExecutor(SERVERS_AT_ONCE) as pool:
        yield {
            case["id"]: pool.submit(
                StepRunner(case, fixtures, tmp_path_factory.mktemp(case["id"])).run
            )
            for case in LIFECYCLE
        }


@pytest.mark.parametrize("case", named(REQUESTS))
def test_a_request_is_answered_as_tensorflow_serving_answers_it(
    case: dict[str, Any], servers: dict[tuple[str, ...], RunningServer]
) -> None:
    server = servers[tuple(case.get("flags", ()))]
    run = run_grpc_case if case["transport"] == "grpc" else run_rest_case
    assert run(case, server) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", named(LIFECYCLE))
def test_models_come_and_go_as_in_tensorflow_serving(
    case: dict[str, Any], lifecycles: Mapping[str, Future[list[str]]]
) -> None:
    assert lifecycles[case["id"]].result() == []
