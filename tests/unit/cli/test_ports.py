from __future__ import annotations

import socket
from pathlib import Path

from tasks.cli.ports import PortBook, is_free


def listening() -> socket.socket:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


def test_a_taken_port_gives_way_to_the_next_free_one_and_that_is_said(tmp_path: Path) -> None:
    with listening() as server:
        port = server.getsockname()[1]
        chosen = PortBook(folder=tmp_path).choose({"airflow": port})
        assert chosen.ports["airflow"] > port
        assert chosen.notes == (
            f"port {port} is taken: airflow listens on {chosen.ports['airflow']}",
        )


def test_a_free_port_is_taken_without_a_word(tmp_path: Path) -> None:
    with listening() as server:
        port = server.getsockname()[1]
    chosen = PortBook(folder=tmp_path).choose({"airflow": port})
    assert dict(chosen.ports) == {"airflow": port}
    assert chosen.notes == ()


def test_a_port_is_promised_once_even_to_two_stacks_and_before_anybody_listens(
    tmp_path: Path,
) -> None:
    ours, theirs = PortBook(folder=tmp_path), PortBook(folder=tmp_path)
    first, second = ours.next_free(41000), ours.next_free(41000)
    assert theirs.next_free(41000) not in {first, second}
    assert first != second
    ours.close()
    assert theirs.next_free(41000) == first


def test_a_listening_port_is_not_free() -> None:
    with listening() as server:
        assert not is_free(server.getsockname()[1])
