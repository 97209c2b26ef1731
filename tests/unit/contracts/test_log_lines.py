from __future__ import annotations

import json
import logging
import multiprocessing
from pathlib import Path

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.contracts.log_lines import Form, Level, LineHandler, LineLog, Subject, append_line

TRAINING = Subject(process="train_model", stage="train_model", release_id="r-1")


def a_log(said: list[str], **fields) -> LineLog:
    return LineLog(subject=TRAINING, speak=said.append, clock=lambda: 1_700_000_000.25, **fields)


def test_a_line_for_programs_says_when_how_bad_what_about_and_what() -> None:
    said: list[str] = []
    log = a_log(said, form=Form.JSON)
    log.about(artifact="trained_model/abc", model="shop")
    log.info("40% epoch 2", plain="train_model: 40% epoch 2")
    line = json.loads(said[0])
    assert isinstance(line.pop("pid"), int)
    assert line == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "process": "train_model",
        "stage": "train_model",
        "release_id": "r-1",
        "model": "shop",
        "artifact": "trained_model/abc",
        "message": "40% epoch 2",
    }


def test_people_read_the_plain_line_and_the_file_gets_the_same_as_json(tmp_path: Path) -> None:
    said: list[str] = []
    log = a_log(said, file=tmp_path / "lines")
    log.info("40% epoch 2", plain="train_model: 40% epoch 2")
    log.say(Level.ERROR, "Gate 'events' refused: 1 failed\n  - price")
    log.note(Level.WARNING, "only in the file")
    assert said == ["train_model: 40% epoch 2", "Gate 'events' refused: 1 failed\n  - price"]
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("info", "40% epoch 2"),
        ("error", "Gate 'events' refused: 1 failed\n  - price"),
        ("warning", "only in the file"),
    ]
    assert (tmp_path / "lines").stat().st_mode & 0o777 == 0o600


def test_the_environment_chooses_and_an_unknown_form_is_refused(tmp_path: Path) -> None:
    chosen = {"HEADRACE_LOG": "json", "HEADRACE_LOG_FILE": str(tmp_path / "lines")}
    log = LineLog.from_environment(TRAINING, chosen)
    assert (log.form, log.file) == (Form.JSON, tmp_path / "lines")
    assert LineLog.from_environment(TRAINING, {}).form is Form.PLAIN
    with pytest.raises(BadRequestError, match="HEADRACE_LOG: expected plain or json, found 'xml'"):
        LineLog.from_environment(TRAINING, {"HEADRACE_LOG": "xml"})


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    said: list[str] = []
    a_log(said, file=Path("/nonexistent/lines")).info("goes on")
    assert said == ["goes on"]


def test_a_long_message_is_cut() -> None:
    said: list[str] = []
    a_log(said, form=Form.JSON).info("x" * 100_000)
    assert len(said[0]) < 9000


def _write(file: str, number: int) -> None:
    for count in range(200):
        append_line(Path(file), json.dumps({"n": number, "count": count, "text": "x" * 500}))


def test_lines_of_many_processes_never_mix(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(_write, [(str(file), number) for number in range(4)])
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(line["n"], line["count"]) for line in lines} == {
        (number, count) for number in range(4) for count in range(200)
    }


def test_a_file_that_grew_long_is_set_aside_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.contracts.log_lines.MAX_FILE_BYTES", 25)
    file = tmp_path / "lines"
    for number in range(4):
        append_line(file, f"line {number} ..")  # 10 bytes each
    assert (tmp_path / "lines.1").read_text() == "line 0 ..\nline 1 ..\nline 2 ..\n"
    assert file.read_text() == "line 3 ..\n"


def test_pythons_own_logging_comes_out_as_lines_with_tracebacks() -> None:
    said: list[str] = []
    logger = logging.getLogger("test-lines")
    logger.handlers, logger.propagate = [LineHandler(a_log(said, form=Form.JSON))], False
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logger.exception("load failed")
    line = json.loads(said[0])
    assert line["level"] == "error"
    assert line["message"].startswith("load failed\nTraceback")
    assert line["message"].endswith("ZeroDivisionError: division by zero")
