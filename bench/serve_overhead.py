"""What `headrace serve` adds to a model: one call, and requests per second over gRPC and REST.

Peers in the same run: TensorFlow's own Python signature call; a grpcio server that echoes bytes.
usage: python -m bench.serve_overhead [--seconds 5] [--callers 16]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil

from tasks.adapters.tf_serving import TfServingRest
from tasks.serving import protos
from tasks.serving.client import ServingClient, predict_request
from tasks.serving.infra_check import latency_of
from tasks.serving.session import SavedModelSession, SessionOptions

WRITE_MODEL = """
import sys, time
import tensorflow as tf
class Half(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
    def answer(self, x):
        return {"y": 0.5 * x + 2.0}
module = Half()
tf.saved_model.save(module, sys.argv[1], signatures=module.answer)
call = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
x = tf.constant([[2.0]])
for _ in range(500):
    call(x=x)["y"].numpy()
start = time.perf_counter()
for _ in range(2000):
    call(x=x)["y"].numpy()
print((time.perf_counter() - start) / 2000 * 1e6)
"""


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def microseconds_per_call(call: Callable[[], object], calls: int = 5000) -> float:
    """Return the best of three rounds."""
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        rounds.append((time.perf_counter() - start) / calls * 1e6)
    return min(rounds)


def echo(port: int) -> None:
    """Serve bytes back: the floor of grpcio on this machine."""
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    services = (
        grpc.method_handlers_generic_handler(
            "tensorflow.serving.PredictionService", {"Predict": handler}
        ),
    )
    server = grpc.server(ThreadPoolExecutor(8), handlers=services)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def load(send: Callable[[], object], callers: int, seconds: float) -> str:
    """Return requests per second and percentiles in ms of `callers` threads."""
    end = time.perf_counter() + seconds

    def ask(_: int) -> list[float]:
        took = []
        while time.perf_counter() < end:
            start = time.perf_counter()
            send()
            took.append(time.perf_counter() - start)
        return took

    with ThreadPoolExecutor(callers) as pool:
        taken = [one for many in pool.map(ask, range(callers)) for one in many]
    ms = latency_of(taken).milliseconds
    return (
        f"{len(taken) / seconds:7.0f} rps  p50 {ms[50]:.2f}  p95 {ms[95]:.2f}  p99 {ms[99]:.2f} ms"
    )


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--callers", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), options.seconds, options.callers)


def measure(scratch: Path, seconds: float, callers: int) -> None:
    """Measure everything on one small model."""
    command = [sys.executable, "-c", WRITE_MODEL, str(scratch / "m/1")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peer = float(done.stdout.split()[-1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    session = SavedModelSession(scratch / "m/1", SessionOptions())
    request = predict_request("m", {"x": [[2.0]]})
    feeds = {"x": protos.predict.PredictRequest.FromString(request).inputs["x"].SerializeToString()}
    signature = session.signatures["serving_default"]
    ours = microseconds_per_call(lambda: session.run(signature, feeds))
    print(f"one call: {ours:.1f} us; TensorFlow's signature {peer:.1f} us; ratio {peer / ours:.1f}")
    serve(scratch / "m", request, seconds, callers)


def serve(base: Path, request: bytes, seconds: float, callers: int) -> None:
    """Start the server and a bare grpcio echo; load them in turn."""
    port, rest_port, echo_port = free_port(), free_port(), free_port()
    flags = [f"--port={port}", f"--rest_api_port={rest_port}", "--model_name=m"]
    start = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "tasks.serving", *flags, f"--model_base_path={base}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    floor = multiprocessing.get_context("spawn").Process(target=echo, args=(echo_port,))
    assert server.stdout is not None
    server.stdout.readline()
    ready = time.perf_counter() - start
    memory = psutil.Process(server.pid).memory_info().rss >> 20
    print(f"start: {ready:.2f} s to ready, {memory} MB resident")
    floor.start()
    time.sleep(2)
    body = b'{"instances": [[2.0]]}'
    try:
        with (
            ServingClient(f"127.0.0.1:{port}") as grpc_client,
            ServingClient(f"127.0.0.1:{echo_port}") as echo_client,
            TfServingRest(f"http://127.0.0.1:{rest_port}") as rest_client,
        ):
            senders = {
                "grpcio echo": lambda: echo_client.predict_bytes(request),
                "headrace gRPC": lambda: grpc_client.predict_bytes(request),
                "headrace REST": lambda: rest_client.predict_bytes("m", body),
            }
            for count in (1, callers):
                for name, send in senders.items():
                    load(send, count, 0.5)
                    print(f"{name:14} {count:3} callers {load(send, count, seconds)}")
    finally:
        server.terminate()
        floor.terminate()
        server.wait()


if __name__ == "__main__":
    main()
