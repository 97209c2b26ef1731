"""`headrace serve` as a process: start, swap, drain, stop."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest

from tasks.adapters.tf_serving import TfServingRest
from tasks.serving import protos
from tests.integration.serving.running_server import (
    ROOT,
    RunningServer,
    predict_request,
)
from tests.ports import free_port

Start = Callable[..., RunningServer]


def publish(models: Path, source: str, base: Path, version: int) -> None:
    base.mkdir(parents=True, exist_ok=True)
    shutil.copytree(models / source, base / f"{version}.tmp")
    (base / f"{version}.tmp").rename(base / str(version))


def answer(server: RunningServer) -> tuple[int, float]:
    response = server.call("Predict", predict_request("m"))
    return response.model_spec.version.value, response.outputs["y"].float_val[0]


def test_an_empty_base_path_waits_with_closed_ports_for_its_first_version(
    start_server: Start, models: Path, tmp_path: Path
) -> None:
    base = tmp_path / "m"
    base.mkdir()
    server = start_server("--model_name=m", f"--model_base_path={base}", ready=False)
    server.wait_until(lambda: "watching" in server.said())
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", server.port)),
    ):
        pass
    publish(models, "half_plus_two/1", base, 1)
    server.wait_ready()
    assert answer(server) == (1, 3.0)


def test_no_request_fails_while_a_new_version_takes_over(
    start_server: Start, models: Path, tmp_path: Path
) -> None:
    base = tmp_path / "m"
    publish(models, "half_plus_two/1", base, 1)
    server = start_server("--model_name=m", f"--model_base_path={base}")
    seen: set[tuple[int, float]] = set()
    failures: list[grpc.RpcError] = []
    stop = threading.Event()

    def ask_all_the_time() -> None:
        while not stop.is_set():
            try:
                seen.add(answer(server))
            except grpc.RpcError as error:
                failures.append(error)

    askers = [threading.Thread(target=ask_all_the_time) for _ in range(3)]
    for asker in askers:
        asker.start()
    publish(models, "half_plus_two/2", base, 2)
    with TfServingRest(f"http://127.0.0.1:{server.rest_port}") as rest:
        row = rest.wait_available("m", 2, 30)
        server.wait_until(lambda: {r.version: r.state for r in rest.status("m")}[1] == "END")
    stop.set()
    for asker in askers:
        asker.join()
    assert row is not None
    assert row.state == "AVAILABLE"
    assert failures == []
    assert seen == {(1, 3.0), (2, 4.0)}


def test_sigterm_lets_running_requests_end_and_exits_with_0(
    start_server: Start, models: Path, tmp_path: Path
) -> None:
    publish(models, "waiting/1", tmp_path / "m", 1)
    server = start_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    request = protos.predict.PredictRequest()
    request.model_spec.name = "m"
    folder = protos.TensorProto(dtype=7, string_val=[str(tmp_path).encode()])
    request.inputs["folder"].CopyFrom(folder)
    assert server.process is not None
    with ThreadPoolExecutor(1) as client:
        answered = client.submit(server.call, "Predict", request)
        server.wait_until((tmp_path / "begun").exists)
        server.process.terminate()
        server.wait_until(lambda: "stopping on SIGTERM" in server.said())
        (tmp_path / "go").touch()
        looks = answered.result().outputs["looks"].int_val[0]
    assert looks > 0
    assert server.process.wait(30) == 0


def run_serve(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tasks.serving", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_taken_port_is_told_in_one_line_and_ends_with_4(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_serve(f"--port={port}", f"--model_base_path={tmp_path}")
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert f"--port={port}: expected a free port on 127.0.0.1" in done.stderr


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    (
        (("--enable_batching",), 4, "--enable_batching=true: not supported"),
        ((), 4, "Both server_options.model_base_path and server_options.model_config_file"),
    ),
)
def test_a_request_that_can_never_be_served_ends_with_4(
    flags: tuple[str, ...], code: int, text: str
) -> None:
    done = run_serve(f"--port={free_port()}", *flags)
    assert (done.returncode, text in done.stderr) == (code, True)


def test_a_broken_first_model_ends_the_process(models: Path) -> None:
    done = run_serve(
        f"--port={free_port()}",
        "--model_name=m",
        f"--model_base_path={models / 'broken'}",
        "--max_num_load_retries=0",
    )
    assert done.returncode == 1
    assert "1 servable(s) did not become available: {{{name: m version: 1}" in done.stdout


def test_memory_of_old_versions_is_given_back(
    start_server: Start, models: Path, tmp_path: Path
) -> None:
    base = tmp_path / "m"
    publish(models, "half_plus_two/1", base, 1)
    server = start_server("--model_name=m", f"--model_base_path={base}")
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    used = []
    with TfServingRest(f"http://127.0.0.1:{server.rest_port}") as rest:
        for version in range(2, 8):
            publish(models, "half_plus_two/2", base, version)
            rest.wait_available("m", version, 30)
            server.wait_until(
                lambda old=version - 1: {r.version: r.state for r in rest.status("m")}[old] == "END"
            )
            used.append(process.memory_info().rss)
    assert used[-1] - used[1] < 40 << 20


def test_the_rest_client_reads_what_the_server_says(
    start_server: Start, models: Path, tmp_path: Path
) -> None:
    publish(models, "half_plus_two/1", tmp_path / "m", 1)
    server = start_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    with TfServingRest(f"http://127.0.0.1:{server.rest_port}") as rest:
        assert rest.predict("m", {"x": [2.0]}) == {"output": [3.0]}
        assert rest.status("ghost") == []
        assert rest.metadata("m")["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"


def test_an_idle_server_uses_next_to_no_cpu(
    start_server: Start, models: Path, tmp_path: Path
) -> None:
    publish(models, "half_plus_two/1", tmp_path / "m", 1)
    server = start_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(4)
    assert sum(process.cpu_times()[:2]) - before < 0.2
    assert os.getpid() != server.process.pid
