"""`headrace envoy`: the router's Envoy; told to end, it first asks its clients to leave."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tasks.rollout.envoy import RouterFiles, admin_address, envoy_command, write_bootstrap
from tasks.rollout.keeper import stop_on_signals

ASK_SECONDS = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run Envoy until it ends, or SIGTERM and the drain are over."""
    options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    files = RouterFiles(folder=options.router_dir)
    files.folder.mkdir(parents=True, exist_ok=True)
    write_bootstrap(files, port=options.port, admin_port=options.admin_port, host=options.host)
    stop = stop_on_signals((signal.SIGTERM, signal.SIGINT))
    envoy = subprocess.Popen(envoy_command(files, concurrency=options.concurrency))
    while envoy.poll() is None and not stop.wait(0.2):
        pass
    if envoy.poll() is None:
        drain(files, envoy, options.drain_seconds)
        envoy.terminate()
    return envoy.wait()


def drain(files: RouterFiles, envoy: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask clients to leave and go on serving for `seconds`: who sends them here learns of it late."""
    deadline = time.monotonic() + seconds
    asked = False
    while time.monotonic() < deadline and envoy.poll() is None:
        asked = asked or _fail_health(files)  # answers then say `connection: close`, or GOAWAY
        time.sleep(0.2)


def _fail_health(files: RouterFiles) -> bool:
    try:
        connection = http.client.HTTPConnection(*admin_address(files), timeout=ASK_SECONDS)
        with contextlib.closing(connection):
            connection.request("POST", "/healthcheck/fail")
            return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace envoy", description=__doc__)
    parser.add_argument("--router-dir", type=Path, required=True, help="folder shared with keeper")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, required=True, help="REST and gRPC of all models")
    parser.add_argument("--admin-port", type=int, required=True, help="Envoy's own, on 127.0.0.1")
    parser.add_argument("--concurrency", type=int, default=1, help="Envoy's threads (default: 1)")
    parser.add_argument(
        "--drain-seconds", type=float, default=0.0, help="between SIGTERM and the end (default: 0)"
    )
    return parser
