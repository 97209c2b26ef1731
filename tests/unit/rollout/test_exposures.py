from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks.rollout.envoy import router_files
from tasks.rollout.exposures import (
    ExposureLander,
    exposure_of,
    hashed_user,
    read_lines,
    rollout_folder,
    user_key,
)

KEY = b"k" * 32


def line(number: int = 0, **others: Any) -> dict[str, Any]:
    return {
        "time": "1700000000.125",
        "request_id": f"request-{number}",
        "user_id": "ann",
        "model": "shop",
        "variant": "candidate",
        "rollout": "r2",
        "step": "1",
        "bucket": "17",
        "slot": "green",
        "code": 200,
        "grpc_status": None,
        "flags": "-",
        "attempts": 1,
        "duration_us": 4250,
        **others,
    }


@pytest.fixture
def lander(tmp_path: Path) -> ExposureLander:
    router_files(tmp_path).folder.mkdir(parents=True)
    return ExposureLander(state_dir=tmp_path, key=KEY)


def write(lander: ExposureLander, *lines: dict[str, Any], end: str = "\n") -> None:
    with lander.files.access_log.open("a") as writer:
        writer.write("\n".join(json.dumps(one) for one in lines) + end)


def landed(lander: ExposureLander, rollout: str = "r2") -> list[dict[str, Any]]:
    return read_lines(rollout_folder(lander.state_dir, "shop", rollout) / "exposures.jsonl")


def test_an_exposure_holds_a_hash_in_place_of_the_user() -> None:
    found = exposure_of(line(), KEY)
    assert found == {
        "time": 1_700_000_000.125,
        "request_id": "request-0",
        "user": hashed_user(KEY, "ann"),
        "variant": "candidate",
        "bucket": 17,
        "step": 1,
        "slot": "green",
        "code": 200,
        "grpc_status": None,
        "flags": "-",
        "attempts": 1,
        "ms": 4.25,
    }
    assert "ann" not in json.dumps(found)


def test_another_key_gives_another_hash() -> None:
    assert hashed_user(KEY, "ann") != hashed_user(b"other", "ann")


@pytest.mark.parametrize(
    "others",
    (
        pytest.param({"bucket": None}, id="a request without a user"),
        pytest.param({"rollout": None}, id="a request outside any step"),
    ),
)
def test_no_exposure_is(others: dict[str, Any]) -> None:
    assert exposure_of(line(**others), KEY) is None


def test_lines_land_once_and_by_rollout(lander: ExposureLander) -> None:
    write(lander, line(1), line(2, rollout="r3"))
    assert lander.land() == 2
    assert lander.land() == 0
    write(lander, line(3))
    assert lander.land() == 1
    assert [one["request_id"] for one in landed(lander)] == ["request-1", "request-3"]
    assert [one["request_id"] for one in landed(lander, "r3")] == ["request-2"]


def test_half_a_line_waits_for_its_end(lander: ExposureLander) -> None:
    write(lander, line(1), end="")
    assert lander.land() == 0
    write(lander, end="\n")
    assert lander.land() == 1


def test_a_lander_that_crashed_before_noting_its_place_doubles_nothing(
    lander: ExposureLander,
) -> None:
    write(lander, line(1), line(2))
    lander.land()
    (lander.files.folder / "landed.json").unlink()
    lander.land()
    assert [one["request_id"] for one in landed(lander)] == ["request-1", "request-2"]


def test_a_log_that_was_replaced_is_read_from_its_start(lander: ExposureLander) -> None:
    write(lander, line(1), line(2))
    lander.land()
    lander.files.access_log.unlink()
    write(lander, line(3))
    assert lander.land() == 1


def test_a_long_log_is_removed_only_when_all_has_landed_and_envoy_writes_elsewhere(
    lander: ExposureLander,
) -> None:
    answers = iter([False, True])
    lander.max_log_bytes, lander.reopen = 100, lambda: next(answers)
    write(lander, line(1))
    assert lander.land() == 1
    (aside,) = lander.files.folder.glob("access.aside*")
    assert not lander.files.access_log.exists()
    with aside.open("a") as writer:  # Envoy has not been told yet: it writes to the old file
        writer.write(json.dumps(line(2)) + "\n")
    assert lander.land() == 1
    write(lander, line(3))
    assert lander.land() == 1
    assert aside.exists()
    os.utime(aside, (0, 0))
    assert lander.land() == 0
    assert not aside.exists()
    assert [one["request_id"] for one in landed(lander)] == [
        "request-1",
        "request-2",
        "request-3",
    ]


def test_an_envoy_that_cannot_be_told_keeps_its_log(lander: ExposureLander) -> None:
    lander.max_log_bytes = 100
    write(lander, line(1))
    for _ in range(3):
        lander.land()
        for path in lander.files.folder.glob("access.aside*"):
            os.utime(path, (0, 0))
    assert len(list(lander.files.folder.glob("access*"))) == 1


def test_a_line_that_does_not_parse_is_counted_and_left_out(lander: ExposureLander) -> None:
    with lander.files.access_log.open("a") as writer:
        writer.write("not json\n[1]\n")
    write(lander, line(1))
    assert lander.land() == 1
    assert lander.bad_lines == 2


def test_no_log_is_nothing_to_land(lander: ExposureLander) -> None:
    assert lander.land() == 0


def test_the_key_is_drawn_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: user_key(tmp_path), range(8)))
    assert len(keys) == 1
    assert len(keys.pop()) == 32
    path = tmp_path / "router" / "user.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["user.key"]
