"""A slot that is a process of its own, so that it can be killed or stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.integration.rollout.conftest import Slot

START_SECONDS = 15
SERVER = Path(__file__).with_name("slot_server.py")


@dataclass
class ProcessSlot(Slot):
    """One colour: its REST server, which answers with its name and its model's status."""

    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-S", str(SERVER), self.mood.name, str(self.rest_port)]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{self.rest_port}/", timeout=1, trust_env=False)
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
