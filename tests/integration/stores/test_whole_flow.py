"""Every stage and every command on file:// and on s3://: the same digests, no secret, listings counted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tasks.contracts.artifacts import Address
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.gate_reports import PAGE_NAME
from tasks.contracts.stages import ArtifactKind, Stage
from tests.faults.form import SHORT
from tests.faults.shop import Shop, shop_catalogue, shop_events, write_shop
from tests.integration.stores.conftest import (
    KEY_ID,
    SECRET,
    new_bucket,
    past_the_proxy,
    s3_variables,
)
from tests.integration.stores.faulty_proxy import Asked, FaultyProxy, all_pass
from tests.integration.stores.whole_flow import (
    SECOND,
    Flow,
    SealedStore,
    a_line,
    run_commands,
    run_stages,
)

pytestmark = [pytest.mark.trial, pytest.mark.timeout(1800)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@dataclass(kw_only=True)
class Done:
    """A flow on one store, and what a proxy saw of its stages."""

    flow: Flow
    asked: list[Asked]
    bucket: dict[str, bytes]  # key -> bytes of every object in the end

    @property
    def listings(self) -> list[str]:
        return [one.path for one in self.asked if one.is_listing]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    return write_shop(folder, SHORT, shop_events(SHORT), shop_catalogue(SHORT))


@pytest.fixture(scope="module")
def on_file(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Done:
    with a_line(tmp_path_factory.mktemp("on-file")) as (line, front):
        flow = run_stages(line, shop, SHORT, front)
        run_commands(flow, front)
    return Done(flow=flow, asked=[], bucket={})


@pytest.fixture(scope="module")
def on_s3(
    shop: Shop, proxy: FaultyProxy, moto_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Done]:
    with pytest.MonkeyPatch.context() as patch, new_bucket(moto_port) as url:
        for name, value in s3_variables(proxy).items():
            patch.setenv(name, value)
        with a_line(tmp_path_factory.mktemp("on-s3"), url) as (line, front):
            with proxy.plan.doing(all_pass):
                flow = run_stages(line, shop, SHORT, front)
                asked = list(proxy.plan.asked)
            run_commands(flow, front)
        yield Done(flow=flow, asked=asked, bucket=objects_of(moto_port, url))


def objects_of(moto_port: int, url: str) -> dict[str, bytes]:
    client, bucket = past_the_proxy(moto_port), url.split("/")[2]
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [one["Key"] for page in pages for one in page.get("Contents", [])]
    return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


@pytest.fixture(params=("on_file", "on_s3"))
def done(request: pytest.FixtureRequest) -> Done:
    found: Done = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def flow(done: Done) -> Flow:
    return done.flow


def output(flow: Flow, command: str, code: ExitCode = ExitCode.DONE) -> str:
    said = flow.said[command]
    assert said.returncode == code, f"{command}: {said.stdout}{said.stderr}"
    assert said.stderr == ""
    return said.stdout


def test_every_stage_runs_and_is_green_for_airflow(flow: Flow) -> None:
    ran = {one.stage for one in flow.line.ran if one.done}
    assert ran == set(Stage) - {
        Stage.ROLL_BACK_RELEASE,
        Stage.HOTFIX_STABLE,
    }  # the command does that here
    assert [one.sentence for one in flow.line.ran if not one.done] == []


def test_airflow_reads_the_request_and_shows_the_gates_page(flow: Flow) -> None:
    store, second = SealedStore(url=flow.line.store_url), flow.second
    assert store.release_request(second.address) == second.pinned
    report = Address.parse(second.reports[ArtifactKind.EVALUATION])
    assert b"<title>" in store.payload(report, PAGE_NAME)


def test_users_got_the_release_that_the_ledger_names(flow: Flow) -> None:
    assert flow.served == {
        "after the first release": True,
        "after the second release": True,
        "after the rollback": True,
    }


def test_the_release_is_mirrored(flow: Flow) -> None:
    mirrored = next(one for one in flow.line.ran if one.stage is Stage.MIRROR_RELEASE)
    assert re.match(r"shop: second \(promoted\) is run [0-9a-f]+, version 1", mirrored.sentence)


def test_verify_finds_nothing_wrong_before_and_after_gc_and_rollback(flow: Flow) -> None:
    for command in ("verify", "verify after gc", "verify after rollback"):
        assert output(flow, command).startswith("release 2 (second) verified: ")
    assert output(flow, "verify 1 after gc").startswith("release 1 (first) verified: ")


def test_history_says_who_served_now_and_at_a_time(flow: Flow) -> None:
    assert output(flow, "history").endswith("now: release 2 (second) served\n")
    at = flow.first_promoted_at
    then = output(flow, "history --at")
    assert then.endswith(f"at {at}: release 1 (first) served\n")
    assert SECOND not in then
    assert SECOND in output(flow, "history")


def test_gc_says_what_it_would_remove_then_removes_just_that(flow: Flow) -> None:
    told = output(flow, "gc --dry-run")
    would = set(re.findall(r"would remove (\S+)", told))
    assert flow.unreached <= would
    assert re.search(rf"^{len(would)} folders, .* would be freed$", told, re.MULTILINE)
    assert set(re.findall(r"removes (\S+)", output(flow, "gc"))) == would
    assert flow.left == set()


def test_rollback_serves_the_release_before(flow: Flow) -> None:
    said = output(flow, "rollback")
    assert said == "shop: second rolled back; release 1 serves\n"
    after = output(flow, "history after rollback")
    assert after.endswith("now: release 1 (first) served\n")
    assert "complaints" in after


def test_both_kinds_of_store_hold_the_same_addresses_and_contents(
    on_file: Done, on_s3: Done
) -> None:
    expected, found = on_file.flow.contents, on_s3.flow.contents
    assert len(expected) == 2 * (1 + 2 * 6)  # request; six stages before staging, each with a gate
    assert found == expected


def test_no_stage_lists_anything_but_the_mirror_after_the_end(on_s3: Done) -> None:
    """mirror_release looks for the pages of its gates, once all is decided: nothing waits for it."""
    assert [prefix_of(path) for path in on_s3.listings] == ["store/gate_report/"]
    promoted = writes_of(on_s3.asked, "/store/release/")
    assert len(promoted) == 2
    assert not any(one.is_listing for one in on_s3.asked[: promoted[-1]])
    assert {one.method for one in on_s3.asked} >= {"GET", "PUT", "HEAD"}


def prefix_of(listing: str) -> str:
    return parse_qs(urlsplit(listing).query)["prefix"][0]


def writes_of(asked: list[Asked], place: str) -> list[int]:
    """Return at which requests a manifest was sealed below `place`."""
    return [
        number
        for number, one in enumerate(asked)
        if one.method == "PUT" and place in one.path and "/manifest.json" in one.path
    ]


def test_credentials_are_in_no_object_file_log_report_or_answer(on_s3: Done) -> None:
    texts = {**on_s3.bucket, **files_below(on_s3.flow.line.folder)}
    for command, said in on_s3.flow.said.items():
        texts[f"output of {command}"] = f"{said.stdout}{said.stderr}".encode()
    for ran in on_s3.flow.line.ran:
        texts[f"sentence of {ran.stage}"] = ran.sentence.encode()
    assert holding(texts, KEY_ID, SECRET, quote(SECRET, safe="")) == []
    # Everything was looked at, and these were the credentials with which it was done.
    assert len(on_s3.bucket) > 100
    places = {name.rpartition("/")[2] for name in holding(texts, SECOND)}
    assert places >= {"state.json", "headrace.jsonl", "request.json", "release.json"}
    assert all(KEY_ID in one.headers["authorization"] for one in on_s3.asked)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def holding(texts: dict[str, bytes], *words: str) -> list[str]:
    sought = [word.encode() for word in words]
    return [name for name, text in texts.items() if any(word in text for word in sought)]
