"""What fails for one part is said of it, and ends no other part."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tasks.cli import parts
from tasks.cli.parts import Part
from tasks.cli.processes import Identity, stop_marked
from tasks.cli.supervisor import Supervisor

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")
STEP = (sys.executable, "-c", "pass")


class Supervised:
    """A supervisor in this process, with a part beside the troublesome one."""

    def __init__(self, folder: Path, part: Part) -> None:
        self.record = folder / "stack.json"
        self.said: list[str] = []
        plan = (Part(name="serves", command=SLEEPER), part)
        self.stack_id = f"trouble-{os.getpid()}-{folder.name}"
        self.supervisor = Supervisor(
            plan=lambda: plan,
            logs=folder,
            record=self.record,
            about=dict,
            stack_id=self.stack_id,
            say=self.said.append,
        )

    def part(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.record.read_text())["parts"][name]
        return found

    def until(self, met: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while True:
            self.supervisor._tick()
            if met():
                return
            assert time.monotonic() < deadline, self.record.read_text()
            time.sleep(0.02)

    def until_noted(self, name: str, words: str) -> None:
        self.until(lambda: words in self.part(name)["note"])
        assert self.part(name)["status"] == "backing off"

    @property
    def serves(self) -> bool:
        row = self.part("serves")
        process = Identity.from_record(row["process"])
        return row["status"] == "ready" and process is not None and process.alive


Start = Callable[[Part], Supervised]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Start]:
    made: list[Supervised] = []

    def start(part: Part) -> Supervised:
        made.append(Supervised(tmp_path, part))
        return made[0]

    yield start
    for one in made:
        one.supervisor._stop_all()
        assert stop_marked(one.stack_id, polite_seconds=1) == 0


def test_a_step_whose_end_cannot_be_written_down_is_done_again_and_ends_no_other_part(
    tmp_path: Path, supervise: Start
) -> None:
    folder = tmp_path / "absent"
    stack = supervise(Part(name="migrate", command=STEP, stamp=folder / "stamp", stamp_text="v1"))
    stack.until_noted("migrate", "ended well, but that could not be written down: [Errno 2]")
    stack.until(lambda: stack.serves)
    folder.mkdir()
    stack.until(lambda: stack.part("migrate")["status"] == "finished")
    assert (folder / "stamp").read_text() == "v1"
    assert stack.part("migrate")["note"] == ""
    assert stack.serves


def test_a_stamp_that_cannot_be_read_is_a_note_and_ends_no_other_part(
    tmp_path: Path, supervise: Start
) -> None:
    stamp = tmp_path / "stamp"
    stamp.mkdir()
    stack = supervise(Part(name="migrate", command=STEP, stamp=stamp))
    stack.until_noted("migrate", "could not be started: [Errno 21] Is a directory")
    stack.until(lambda: stack.serves)


@pytest.mark.parametrize("text", (b"", b"v", b"\xff\xfe"))
def test_a_stamp_with_anything_else_than_the_text_is_none(tmp_path: Path, text: bytes) -> None:
    part = Part(name="migrate", command=STEP, stamp=tmp_path / "stamp", stamp_text="v1")
    assert not part.done_before()
    (tmp_path / "stamp").write_bytes(text)
    assert not part.done_before()
    part.write_stamp()
    assert part.done_before()
    assert [path.name for path in tmp_path.iterdir()] == ["stamp"]


def test_whatever_else_the_system_refuses_one_part_is_said_once_and_ends_no_other_part(
    tmp_path: Path, supervise: Start
) -> None:
    too_long = tmp_path / ("x" * 300)
    stack = supervise(Part(name="mute", command=SLEEPER, ready_file=too_long))
    stack.until(lambda: any("looking after mute" in line for line in stack.said))
    stack.until(lambda: stack.serves)
    assert len([line for line in stack.said if "looking after mute" in line]) == 1


@pytest.fixture
def babbler() -> Iterator[int]:
    """The port of a server that speaks no HTTP."""
    server = socket.create_server(("127.0.0.1", 0))

    def babble() -> None:
        with suppress(OSError):
            while True:
                asked, _ = server.accept()
                with asked:
                    asked.recv(4096)
                    asked.sendall(b"220 mail.example ESMTP\r\n")

    threading.Thread(target=babble, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


def test_a_stranger_on_the_port_who_speaks_no_http_is_no_answer(babbler: int) -> None:
    assert not parts.answers(f"http://127.0.0.1:{babbler}/health")
