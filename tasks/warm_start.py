"""A warm interpreter for the local runtime: gates spend most of their time importing.

`python -m tasks.warm_start serve SOCKET great_expectations` imports third-party packages once and
forks a process per request. `python -m tasks.warm_start run SOCKET <stage> <request.json>` asks it
for `python -m tasks <stage> <request.json>`, lends it standard input, output and error, and ends
as it ends; without a server it becomes that command itself. No module of `tasks` is loaded before
the fork, so that a changed source is seen at once; changed packages make the server decline.
Standard library only. Pods never use it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import sysconfig
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

MAX_REQUEST_BYTES = 1024 * 1024
STARTED, DECLINED = b"s", b"d"
LONGEST_PATH = 100  # of a unix socket; the kernel's limit is 108 bytes
KILLED = 128 + signal.SIGKILL


def main(arguments: Sequence[str]) -> int:
    """Serve, or run one stage."""
    if len(arguments) >= 2 and arguments[0] == "serve":
        serve(Path(arguments[1]), arguments[2:])
    if len(arguments) >= 2 and arguments[0] == "run":
        return run(Path(arguments[1]), list(arguments[2:]))
    print("expected: serve SOCKET PACKAGE... | run SOCKET STAGE REQUEST", file=sys.stderr)
    return 2


def serve(path: Path, packages: Sequence[str]) -> NoReturn:
    """Import `packages`, then fork a process for every connection until ended."""
    path.unlink(missing_ok=True)  # of an earlier server: askers do without meanwhile
    installed = _installed()
    for package in packages:
        importlib.import_module(package)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        before = os.umask(0o177)
        listener.bind(str(path))
        os.umask(before)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                if _installed() != installed:
                    connection.sendall(DECLINED)
                elif os.fork() == 0:
                    listener.close()
                    os._exit(_run_lent(connection))


def run(path: Path, arguments: list[str]) -> int:
    """Run the stage in a fork of the server, or in this process where there is no server."""
    code = _run_warm(path, arguments)
    if code is None:
        command = [sys.executable, "-u", "-m", "tasks", *arguments]
        os.execv(sys.executable, command)  # noqa: S606  the same program, without the head start
    return code


def _run_warm(path: Path, arguments: list[str]) -> int | None:
    """Return the exit code of the stage, or None where no server took it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
            lent = {"arguments": arguments, "environment": dict(os.environ), "cwd": str(Path.cwd())}
            text = json.dumps(lent).encode()
            streams = [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)]
            socket.send_fds(connection, [len(text).to_bytes(4, "big")], streams)
            connection.sendall(text)
            if connection.recv(1) != STARTED:
                return None
        except OSError:
            return None
        ended = connection.recv(1)
    return ended[0] if ended else KILLED


def _installed() -> tuple[int, ...]:
    """Return what changes when a package is installed or removed."""
    return tuple(
        Path(sysconfig.get_path(name)).stat().st_mtime_ns for name in ("purelib", "platlib")
    )


def _run_lent(connection: socket.socket) -> int:
    """Become the stage: its streams, environment and folder; die with whoever asked."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    head, streams, _, _ = socket.recv_fds(connection, 4, 3)
    text = b""
    length = int.from_bytes(head, "big")
    while len(text) < min(length, MAX_REQUEST_BYTES):
        piece = connection.recv(length - len(text))
        if not piece:
            return KILLED
        text += piece
    lent = json.loads(text)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    os.environ.clear()
    os.environ.update(lent["environment"])
    os.chdir(lent["cwd"])
    connection.sendall(STARTED)
    threading.Thread(target=_die_with, args=(connection,), daemon=True).start()
    code = _stage(lent["arguments"])
    with contextlib.suppress(OSError):
        connection.sendall(bytes([code & 0xFF]))
    return code


def _die_with(connection: socket.socket) -> None:
    """Wait until whoever asked is gone, then end this process and all that it started."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os.killpg(0, signal.SIGKILL)


def _stage(arguments: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = ["tasks", *arguments]
    try:
        return int(importlib.import_module("tasks.__main__").main(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
