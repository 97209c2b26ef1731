from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.contracts.errors import CorruptArtifactError
from tasks.rollout import exposures
from tasks.rollout.assignment import NUM_BUCKETS
from tasks.rollout.envoy import RouterFiles, router_files
from tasks.rollout.envoy_stats import VariantName
from tasks.rollout.exposure_files import close_hours, hour_of, read_exposures, seal_closed
from tasks.rollout.exposures import (
    ExposureLander,
    append_outcomes,
    exposure_of,
    failed_rpc,
    hashed_user,
    read_lines,
    rollout_folder,
    user_key,
)
from tasks.rollout.step_users import StepUsers
from tests.unit.killed import deaths

KEY = b"k" * 32
USERS = StepUsers(seed=7, share=NUM_BUCKETS, expires_at=9_999_999_999)


def line(number: int = 0, **others: Any) -> dict[str, Any]:
    return {
        "time": "1700000000.125",
        "request_id": f"request-{number}",
        "user_id": "ann",
        "model": "shop",
        "variant": "candidate",
        "rollout": "r2",
        "step": "1",
        "step_users": str(USERS),
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
    return ExposureLander(state_dir=tmp_path, key=KEY, clock=lambda: SEVEN)


def write(lander: ExposureLander, *lines: dict[str, Any], end: str = "\n") -> None:
    with lander.files.access_log.open("a") as writer:
        writer.write("\n".join(json.dumps(one) for one in lines) + end)


def landed(lander: ExposureLander, rollout: str = "r2") -> list[dict[str, Any]]:
    return list(read_exposures(rollout_folder(lander.state_dir, "shop", rollout)))


def test_an_exposure_holds_a_hash_in_place_of_the_user() -> None:
    found = exposure_of(line(), KEY)
    assert found == {
        "time": 1_700_000_000.125,
        "request_id": "request-0",
        "user": hashed_user(KEY, "ann"),
        "variant": "candidate",
        "bucket": USERS.bucket_of("ann"),
        "step": 1,
        "slot": "green",
        "code": 200,
        "grpc_status": None,
        "flags": "-",
        "attempts": 1,
        "ms": 4.25,
    }
    assert "ann" not in json.dumps(found)


def test_a_request_that_the_router_refuses_for_its_length_is_in_neither_arm() -> None:
    found = exposure_of(line(details="request_payload_too_large", grpc_status=8, slot=None), KEY)
    assert found is not None
    assert found["variant"] == "neither"


def test_another_key_gives_another_hash() -> None:
    assert hashed_user(KEY, "ann") != hashed_user(b"other", "ann")


@pytest.mark.parametrize(
    "others",
    (
        pytest.param({"user_id": None}, id="a request without a user"),
        pytest.param({"user_id": ""}, id="a request of an empty user"),
        pytest.param({"time": "9999999999.000"}, id="a request after the step's lease"),
        pytest.param({"rollout": None}, id="a request outside any step"),
        pytest.param({"step_users": None}, id="a request by routes of an earlier router"),
    ),
)
def test_no_exposure_is(others: dict[str, Any]) -> None:
    assert exposure_of(line(**others), KEY) is None


@pytest.mark.parametrize(
    ("variant", "inside", "lands"),
    (
        pytest.param("candidate", True, True, id="below the share: candidate"),
        pytest.param("candidate", False, False, id="above it: not candidate"),
        pytest.param("stable", False, True, id="above it: stable"),
        pytest.param("stable", True, False, id="below it: never stable while the lease holds"),
        pytest.param("neither", True, True, id="a chunked body of a user below the share"),
        pytest.param("neither", False, True, id="a chunked body of a user above it"),
    ),
)
def test_no_user_of_a_step_is_exposed_in_the_other_arm(
    lander: ExposureLander, variant: str, *, inside: bool, lands: bool
) -> None:
    users = replace(USERS, share=USERS.bucket_of("ann") + int(inside))
    write(lander, line(step_users=str(users), variant=variant))
    assert (lander.land(), lander.bad_lines) == (int(lands), int(not lands))
    assert [one["variant"] for one in landed(lander)] == [variant] * lands


def test_after_the_lease_nobody_is_exposed_in_either_arm(lander: ExposureLander) -> None:
    at = USERS.bucket_of("ann")
    for share in (at, at + 1):  # above and below the share: both meet stable by then
        users = replace(USERS, share=share, expires_at=1_700_000_000)
        write(lander, line(share, step_users=str(users), variant="stable"))
    assert (lander.land(), lander.bad_lines) == (0, 0)


def test_a_user_whom_the_router_did_not_route_by_that_id_is_no_exposure(
    lander: ExposureLander,
) -> None:
    at = USERS.bucket_of("ann")
    inside, outside = (str(replace(USERS, share=share)) for share in (at + 1, at))
    write(lander, line(1, step_users=inside), line(2, step_users=outside))
    write(lander, line(3, step_users=outside, variant="stable"), line(4, step_users="7"))
    said: list[str] = []
    lander.warn = said.append
    assert (lander.land(), lander.bad_lines) == (2, 2)
    (sentence,) = said
    assert "2 lines are no exposures" in sentence
    write(lander, line(5, step_users="7"))
    lander.land()
    assert len(said) == 1  # at most once a minute
    assert [one["request_id"] for one in landed(lander)] == ["request-1", "request-3"]


STABLE = VariantName(model="shop", variant="stable", release_number=1)


def rpc(status: int | None, **others: Any) -> dict[str, Any]:
    """Return a line of a gRPC request to stable, outside any step, that its slot answered."""
    said = {"variant": "stable", "release": "1", "rollout": None, "details": "via_upstream"}
    return line(grpc_status=status, **{"time": "1700002800.000", **said, **others})  # SEVEN


@pytest.mark.parametrize(
    ("found", "name"),
    (
        pytest.param(rpc(13), STABLE, id="INTERNAL: the server's fault, though the code is 200"),
        pytest.param(rpc(14), STABLE, id="UNAVAILABLE"),
        pytest.param(rpc(99), STABLE, id="a status that gRPC does not know"),
        pytest.param(
            rpc(2, details="upstream_reset_after_response_started{connection_termination}"),
            STABLE,
            id="an answer that began well and broke off",
        ),
        pytest.param(rpc(0), None, id="a good answer"),
        pytest.param(rpc(3), None, id="INVALID_ARGUMENT: the caller's"),
        pytest.param(
            rpc(14, details="upstream_reset_before_response_started"),
            None,
            id="Envoy's own refusal, which is among its 5xx",
        ),
        pytest.param(rpc(14, code=503), None, id="a plain 503, which is among Envoy's 5xx"),
        pytest.param(
            rpc(2, details="downstream_remote_disconnect"), None, id="a client that gave up"
        ),
        pytest.param(rpc(None, code=500), None, id="REST"),
        pytest.param(rpc(13, release=None), None, id="a request outside any model's routes"),
    ),
)
def test_whose_grpc_request_failed(found: dict[str, Any], name: VariantName | None) -> None:
    assert failed_rpc(found) == name


def test_a_failed_grpc_request_is_counted_once_with_or_without_an_experiment(
    lander: ExposureLander,
) -> None:
    mine = {"variant": "candidate", "release": "2", "rollout": "r2"}
    first, second = rpc(13, slot="blue"), rpc(13, slot="green", **mine)
    write(lander, first, second, rpc(0))
    assert lander.land() == 1
    name = VariantName(model="shop", variant="candidate", release_number=2)
    assert lander.failed_rpcs == {(STABLE, "blue"): 1, (name, "green"): 1}
    write(lander, first, end="")
    lander.land()  # half a line waits
    assert lander.failed_rpcs[STABLE, "blue"] == 1
    write(lander, end="\n")
    lander.land()
    lander.land()
    assert lander.failed_rpcs == {(STABLE, "blue"): 2, (name, "green"): 1}


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


# Hourly files

SEVEN = 1_700_002_800.0  # 2023-11-14T23:00:00Z
HOURS = ("2023-11-14T23", "2023-11-15T00", "2023-11-15T01")


def rollout(lander: ExposureLander) -> Path:
    return rollout_folder(lander.state_dir, "shop", "r2")


def names(lander: ExposureLander) -> list[str]:
    return sorted(path.name for path in (rollout(lander) / "exposures").iterdir())


def at(seconds: float, number: int) -> dict[str, Any]:
    return line(number, time=f"{SEVEN + seconds:.3f}")


def test_a_line_lands_in_the_file_of_its_hour(lander: ExposureLander) -> None:
    write(lander, at(0, 1), at(3599.999, 2), at(3600, 3))
    lander.land()
    assert names(lander) == [f"{HOURS[0]}.open", f"{HOURS[1]}.open"]
    assert [one["request_id"] for one in landed(lander)] == ["request-1", "request-2", "request-3"]


def test_an_hour_is_sealed_a_minute_after_its_end_under_the_digest_of_its_bytes(
    lander: ExposureLander,
) -> None:
    write(lander, at(10, 1), at(3605, 2))
    lander.land()
    assert close_hours(lander.state_dir, SEVEN + 3659) == 0
    assert close_hours(lander.state_dir, SEVEN + 3660) == 1
    assert seal_closed(lander.state_dir) == 1
    sealed, left = names(lander)
    data = (rollout(lander) / "exposures" / sealed).read_bytes()
    assert sealed == f"{HOURS[0]}-{hashlib.sha256(data).hexdigest()}.jsonl"
    assert left == f"{HOURS[1]}.open"
    assert [one["request_id"] for one in landed(lander)] == ["request-1", "request-2"]
    assert b"ann" not in data


def test_a_line_that_comes_after_its_hour_was_sealed_is_in_a_second_file(
    lander: ExposureLander,
) -> None:
    for number in (1, 2):
        write(lander, at(number, number))
        lander.land()
        close_hours(lander.state_dir, SEVEN + 7200)
        seal_closed(lander.state_dir)
    assert [name[:13] for name in names(lander)] == [HOURS[0]] * 2
    assert {one["request_id"] for one in landed(lander)} == {"request-1", "request-2"}


def test_sealed_exposures_that_were_changed_are_refused_by_name(lander: ExposureLander) -> None:
    write(lander, at(1, 1))
    lander.land()
    close_hours(lander.state_dir, SEVEN + 7200)
    seal_closed(lander.state_dir)
    (path,) = (rollout(lander) / "exposures").iterdir()
    path.write_text(path.read_text().replace("stable", "candidate").replace("green", "blue"))
    with pytest.raises(CorruptArtifactError, match=f"{path.name}: expected the sealed exposures"):
        landed(lander)


def test_a_landing_that_was_cut_in_the_middle_of_a_line_is_undone_and_done_again(
    lander: ExposureLander,
) -> None:
    write(lander, at(1, 1))
    lander.land()
    before = lander.files.folder.joinpath("landed.json").read_text()
    write(lander, at(2, 2), at(3, 3))
    lander.land()
    file = rollout(lander) / "exposures" / f"{HOURS[0]}.open"
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    place = json.loads(before) | {
        "appending": {str(file.relative_to(lander.state_dir)): first},
    }
    for length in (first, first + 1, first + 150, len(whole) - 1, len(whole)):
        file.write_bytes(whole[:length])  # as far as the killed one came
        (lander.files.folder / "landed.json").write_text(json.dumps(place))
        ExposureLander(state_dir=lander.state_dir, key=KEY, clock=lambda: SEVEN).land()
        assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "lost",
    (
        pytest.param("", id="empty"),
        pytest.param('{"format": "landed/9", "offsets": {}}', id="of a later lander"),
        pytest.param('{"format": "landed/2", "offsets": 3}', id="of another shape"),
    ),
)
def test_a_lander_that_lost_its_place_lands_what_is_not_there_and_doubles_nothing(
    lander: ExposureLander, lost: str
) -> None:
    failed = line(9, code=200, grpc_status="13", details="via_upstream", release="2")
    write(lander, at(1, 1), at(2, 2), at(3600, 3), failed)
    lander.land()
    close_hours(lander.state_dir, SEVEN + 3660)
    seal_closed(lander.state_dir)
    file = rollout(lander) / "exposures" / f"{HOURS[1]}.open"
    file.write_bytes(file.read_bytes()[:40])  # as far as the disk had it
    write(lander, at(3601, 4))
    write(lander, at(3602, 5), end="")
    (lander.files.folder / "landed.json").write_text(lost)
    said: list[str] = []
    following = replace(lander, warn=said.append, failed_rpcs=Counter())
    assert following.land() == 2
    write(following, end="\n")
    write(following, at(3603, 6))
    assert following.land() == 2
    assert following.land() == 0
    found = sorted(one["request_id"] for one in landed(following))
    assert found == [f"request-{number}" for number in (1, 2, 3, 4, 5, 6, 9)]
    assert len([name for name in names(lander) if name.startswith(HOURS[0])]) == 1  # none is empty
    assert following.failed_rpcs == {}  # an earlier process has counted it
    assert len(said) == 1
    assert "landed.json: expected" in said[0]


def test_logs_that_cannot_land_are_bounded_and_what_is_dropped_is_counted(
    lander: ExposureLander,
) -> None:
    said: list[str] = []
    lander = replace(lander, max_kept_bytes=1000, reopen=lambda: True, warn=said.append)
    model = lander.state_dir / "shop"
    model.write_text("where the exposures' folder should be")
    for number in range(40):
        write(lander, line(number))
        with pytest.raises(OSError, match="shop"):
            lander.land()
        assert sum(path.stat().st_size for path in lander.files.folder.glob("access*")) < 2500
    model.unlink()
    number = lander.land()
    assert number > 0
    assert number + lander.dropped_lines == 40
    assert landed(lander)[-1]["request_id"] == "request-39"
    assert "lines were dropped, as they could not land" in said[0]


def test_logs_are_bounded_while_the_volume_of_the_state_folder_hangs(
    lander: ExposureLander, monkeypatch: pytest.MonkeyPatch
) -> None:
    lander = replace(lander, max_kept_bytes=1000, reopen=lambda: True)
    began, go = threading.Event(), threading.Event()
    append = exposures._append

    def hang(path: Path, data: bytes) -> None:
        began.set()
        assert go.wait(20)
        append(path, data)

    monkeypatch.setattr(exposures, "_append", hang)
    write(lander, line(0))
    with ThreadPoolExecutor(1) as beside:
        landing = beside.submit(lander.land)
        assert began.wait(20)
        for number in range(1, 40):
            write(lander, line(number))
            lander.bound_logs()
            assert sum(path.stat().st_size for path in lander.files.folder.glob("access*")) < 2500
        go.set()
        assert landing.result() >= 1
    lander.land()
    found = [one["request_id"] for one in landed(lander)]
    assert (found[0], found[-1]) == ("request-0", "request-39")
    assert len(found) == len(set(found))
    assert lander.dropped_lines in {40 - len(found), 41 - len(found)}  # the first: both, perhaps


def test_a_log_that_is_set_aside_while_it_lands_is_not_taken_for_the_next(
    lander: ExposureLander, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper's turn bounds the logs, and Envoy begins another one, just before a read."""
    lander = replace(lander, max_kept_bytes=1000, reopen=lambda: True)
    complete_lines, others = exposures._complete_lines, iter([[line(n) for n in range(40, 65)]])

    def late(*asked: Any) -> bytes:
        for more in others:
            lander.bound_logs()
            assert not lander.files.access_log.exists()
            write(lander, *more)
        return complete_lines(*asked)

    monkeypatch.setattr(exposures, "_complete_lines", late)
    write(lander, *(line(number) for number in range(40)))
    for _ in range(3):
        lander.land()
    found = [one["request_id"] for one in landed(lander)]
    assert sorted(found) == sorted(f"request-{number}" for number in range(65))
    assert lander.dropped_lines == 0


def test_failures_that_land_late_are_not_judged_beside_requests_of_now(
    lander: ExposureLander,
) -> None:
    late, now = rpc(13, time="1700000000.125"), rpc(13, time=f"{SEVEN - 1:.3f}")
    slow = rpc(13, time=f"{SEVEN - 14:.3f}", duration_us="6000000")
    write(lander, late, now, slow)
    lander.land()
    assert sum(lander.failed_rpcs.values()) == 2


def test_an_envoy_that_was_not_told_of_a_bounded_log_is_told_again(lander: ExposureLander) -> None:
    answers = iter([False, True])
    lander = replace(lander, max_kept_bytes=100, reopen=lambda: next(answers))
    (lander.state_dir / "shop").touch()  # nothing can land
    for _ in range(3):
        if not list(lander.files.folder.glob("access*")):
            write(lander, line(1))
        with pytest.raises(OSError, match="shop"):
            lander.land()
    assert next(answers, None) is None


def test_a_lander_killed_at_any_file_operation_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Three hours in two rollouts, a long log set aside, hours closed and sealed meanwhile."""
    clock = [SEVEN]

    def fresh(folder: Path) -> ExposureLander:
        router_files(folder).folder.mkdir(parents=True, exist_ok=True)
        return ExposureLander(
            state_dir=folder,
            key=KEY,
            reopen=lambda: True,
            max_log_bytes=1500,
            clock=lambda: clock[0],
        )

    def act(folder: Path) -> None:
        made = fresh(folder)
        for step in range(4):
            clock[0] = SEVEN + 3700 * step
            made._closed_at = -1e9
            made.land()
            seal_closed(folder)
            for aside in made.files.folder.glob("access.aside*"):
                os.utime(aside, (0, 0))

    def prepared(folder: Path) -> list[dict[str, Any]]:
        lines = [
            line(number, time=f"{SEVEN + 500 * number:.3f}", rollout=f"r{2 + number % 2}")
            for number in range(20)
        ]
        write(fresh(folder), *lines)
        return [exposure_of(one, KEY) or {} for one in lines]

    number = 0
    while True:
        folder = tmp_path / str(number)
        expected = prepared(folder)
        died = next(deaths(lambda folder=folder: act(folder), start=number + 1), None)  # type: ignore[misc]
        act(folder)  # the next keeper
        found = [
            one
            for name in ("r2", "r3")
            for one in read_exposures(rollout_folder(folder, "shop", name))
        ]
        assert sorted(one["request_id"] for one in found) == sorted(
            one["request_id"] for one in expected
        ), f"killed at operation {died}"
        assert not list(folder.glob("*/traffic/*/exposures/*.closed"))
        if died is None:
            break
        number += 1
    assert number > 40  # it was really killed that often


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batches=st.lists(st.lists(st.integers(0, 4 * 3600), max_size=6), min_size=1, max_size=6),
    looks=st.lists(st.integers(0, 6 * 3600), min_size=6, max_size=6),
)
def test_whatever_lands_when_and_whenever_hours_are_closed_each_line_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], looks: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("landing")
    router_files(folder).folder.mkdir(parents=True)
    made = ExposureLander(state_dir=folder, key=KEY, clock=lambda: SEVEN)
    number, expected = 0, []
    for seconds, now in zip(batches, looks, strict=False):
        lines = []
        for moment in seconds:
            number += 1
            lines.append(at(moment, number))
            expected.append((f"request-{number}", SEVEN + moment))
        if lines:
            write(made, *lines)
        made.land()
        close_hours(folder, SEVEN + now)
        seal_closed(folder)
    found = read_exposures(rollout_folder(folder, "shop", "r2"))
    assert sorted((one["request_id"], one["time"]) for one in found) == sorted(expected)
    for path in folder.glob("shop/traffic/r2/exposures/*"):
        hours = {hour_of(json.loads(text)["time"]) for text in path.read_text().splitlines()}
        assert hours == {path.name[:13]}


def test_half_an_outcome_of_a_killed_shopper_spoils_no_other(tmp_path: Path) -> None:
    append_outcomes(tmp_path, [{"request_id": "a", "hit": 1}])
    with (tmp_path / "outcomes.jsonl").open("a") as writer:
        writer.write('{"request_id": "b", "hi')
    append_outcomes(tmp_path, [{"request_id": "c", "hit": 0}])
    found = [one["request_id"] for one in read_lines(tmp_path / "outcomes.jsonl")]
    assert found == ["a", "c"]


def test_readers_beside_a_sealer_miss_nothing_and_see_nothing_twice(
    lander: ExposureLander,
) -> None:
    write(lander, *(at(number, number) for number in range(200)))
    lander.land()
    stop = threading.Event()

    def shuffle() -> None:
        """Open, closed, sealed, and open again under the eyes of the reader."""
        folder = rollout(lander) / "exposures"
        while not stop.is_set():
            close_hours(lander.state_dir, SEVEN + 7200)
            time.sleep(0.005)
            seal_closed(lander.state_dir)
            time.sleep(0.005)
            for path in folder.iterdir():
                path.rename(folder / f"{HOURS[0]}.open")

    thread = threading.Thread(target=shuffle)
    thread.start()
    try:
        for _ in range(100):
            assert len(landed(lander)) == 200
    finally:
        stop.set()
        thread.join()


def test_two_routers_land_side_by_side_and_each_closes_its_own_hours(tmp_path: Path) -> None:
    for name in ("router-1", "router-2"):
        files = RouterFiles(folder=tmp_path / name)
        files.folder.mkdir()
        line = {
            "time": str(SEVEN + 1.0), "request_id": name, "user_id": "u", "model": "shop",
            "variant": "stable", "rollout": "r2", "step": "1", "step_users": "7:100:9999999999",
            "slot": "blue",
            "code": 200, "grpc_status": None, "flags": "-", "attempts": 1, "duration_us": "900",
        }  # fmt: skip
        files.access_log.write_text(json.dumps(line) + "\n")
        lander = ExposureLander(
            state_dir=tmp_path / "state",
            key=b"key",
            router=files,
            name=name,
            clock=lambda: SEVEN + 2.0,
        )
        assert lander.land() == 1
    rollout = tmp_path / "state" / "shop" / "traffic" / "r2"
    hour = hour_of(SEVEN)
    assert exposure_names(rollout) == [f"{hour}.router-1.open", f"{hour}.router-2.open"]
    assert {one["request_id"] for one in read_exposures(rollout)} == {"router-1", "router-2"}
    assert close_hours(tmp_path / "state", SEVEN + 3661, "router-1") == 1
    assert f"{hour}.router-2.open" in exposure_names(rollout)  # the other may still land in it
    assert close_hours(tmp_path / "state", SEVEN + 7201, "router-1") == 1  # it is gone
    assert seal_closed(tmp_path / "state") == 2
    assert {one["request_id"] for one in read_exposures(rollout)} == {"router-1", "router-2"}


def exposure_names(rollout: Path) -> list[str]:
    return sorted(path.name for path in (rollout / "exposures").iterdir())


def test_files_of_hours_before_a_step_began_are_not_read(lander: ExposureLander) -> None:
    write(lander, at(1.0, 1), at(2 * 3600.0, 2), at(3 * 3600.0, 3))
    lander.land()
    folder = rollout(lander)
    began = SEVEN + 3 * 3600
    assert [one["request_id"] for one in read_exposures(folder, began)] == [
        "request-2",  # the clock of a router may be behind ours
        "request-3",
    ]
    before = next(folder.glob(f"exposures/{hour_of(SEVEN)}*"))
    before.write_text("{")
    assert len(list(read_exposures(folder, began))) == 2


def test_a_file_that_goes_on_under_another_name_is_read_on_and_not_again(
    lander: ExposureLander,
) -> None:
    write(lander, at(1.0, 1), at(2.0, 2))
    lander.land()
    lines = read_exposures(rollout(lander))
    found = [next(lines)]
    write(lander, at(3.0, 3))
    lander.land()
    close_hours(lander.state_dir, SEVEN + 7200)
    seal_closed(lander.state_dir)
    found += lines
    assert [one["request_id"] for one in found] == ["request-1", "request-2", "request-3"]


def test_exposures_are_read_one_at_a_time(lander: ExposureLander) -> None:
    """A file of 10 MB is summed up in a tenth of the memory that its lines take as a list."""
    write(lander, at(1.0, 1))
    lander.land()
    (path,) = rollout(lander).glob("exposures/*")
    path.write_bytes(path.read_bytes() * 40_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_exposures(rollout(lander))) == 40_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
