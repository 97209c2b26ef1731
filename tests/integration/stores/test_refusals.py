"""A store that refuses: said once with the next step, never asked again, no credential repeated."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.exit_codes import ExitCode
from tests.integration.stores.conftest import KEY_ID, SECRET
from tests.integration.stores.faulty_proxy import FORBID, FORBIDDEN, Plan
from tests.unit.cli.conftest import MODEL, TinyReleases

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.trial


@pytest.fixture(params=("AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId"))
def forbidding(request: pytest.FixtureRequest, plan: Plan) -> Plan:
    """A server that refuses and repeats the credentials that it was not even sent."""
    plan.forbidden = FORBIDDEN.format(code=request.param, key_id=KEY_ID, secret=SECRET)
    return plan


@pytest.mark.parametrize(
    ("call", "doing"),
    (
        pytest.param(lambda store: store.read("a"), "could not read a", id="read"),
        pytest.param(
            lambda store: store.put_if_absent("a", b"1"), "could not write a", id="put if absent"
        ),
        pytest.param(lambda store: store.replace("a", b"1"), "could not write a", id="replace"),
        pytest.param(lambda store: list(store.list("b")), "could not list b", id="list"),
        pytest.param(lambda store: store.remove_tree("a"), "could not remove a", id="remove"),
        pytest.param(
            lambda store: store.remove_files("b", ["a"]), "could not remove b", id="remove files"
        ),
    ),
)
def test_a_refusal_is_said_with_what_to_do_and_without_a_credential(
    s3_url: str, forbidding: Plan, call: Callable[[ObjectStore], object], doing: str
) -> None:
    store = ObjectStore(s3_url)
    with forbidding.doing(lambda *_: FORBID):
        with pytest.raises(BadRequestError) as refused:  # a retry would find the same
            call(store)
        assert set(forbidding.tries.values()) == {1}
    said = str(refused.value)
    assert said.startswith(f"store {s3_url}: {doing}: ")
    assert "the store refuses these credentials: compare their rights with docs/runbooks/" in said
    assert (ROOT / "docs" / "runbooks" / "stores.md").is_file()
    assert KEY_ID not in said
    assert SECRET not in said


def ran(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("HEADRACE_")}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**kept, "HEADRACE_WORK": str(folder / "work"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_refused_stage_is_not_tried_again_and_its_logs_hold_no_credential(
    s3_url: str, forbidding: Plan, tmp_path: Path
) -> None:
    request, log = tmp_path / "request.json", tmp_path / "headrace.jsonl"
    request.write_text(
        f'{{"format": "stage_request/1", "stage": "build_features", "store_url": "{s3_url}",'
        f' "release": "release_request/{"a" * 64}"}}'
    )
    with forbidding.doing(lambda *_: FORBID):
        done = ran(
            tmp_path,
            *("tasks", "build_features", str(request)),
            HEADRACE_LOG_FILE=str(log),
            HEADRACE_TERMINATION_LOG=str(tmp_path / "termination"),
        )
    assert done.returncode == ExitCode.BAD_REQUEST, done.stderr
    assert "could not read release_request/" in (tmp_path / "termination").read_text()
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("the store refuses these credentials" in text for text in written)
    for text in (*written, done.stdout, done.stderr):
        assert KEY_ID not in text
        assert SECRET not in text


def test_a_refused_command_says_so_without_a_credential(
    s3_url: str, forbidding: Plan, tmp_path: Path
) -> None:
    tiny = TinyReleases(root=tmp_path, url=s3_url)
    tiny.promote("first")
    with forbidding.doing(lambda *_: FORBID):
        done = ran(
            tmp_path,
            *("tasks.cli", "verify", "first", "--model", MODEL),
            HEADRACE_HOME=str(tmp_path),
            HEADRACE_STORE=s3_url,
        )
    assert done.returncode == ExitCode.BAD_REQUEST
    assert done.stderr.startswith(f"headrace: store {s3_url}: could not ")
    assert "the store refuses these credentials" in " ".join(done.stderr.split())
    assert KEY_ID not in done.stderr
    assert SECRET not in done.stderr


def test_a_person_is_taken_back_to_the_release_before_though_the_store_refuses(
    s3_url: str, forbidding: Plan, tmp_path: Path
) -> None:
    tiny = TinyReleases(root=tmp_path, url=s3_url)
    tiny.promote("first")
    tiny.promote("second")
    with forbidding.doing(lambda *_: FORBID):
        done = ran(
            tmp_path,
            *("tasks.cli", "rollback", "--model", MODEL, "--release", "stable"),
            *("--reason", "complaints"),
            HEADRACE_HOME=str(tmp_path),
            HEADRACE_STORE=s3_url,
        )
    assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    assert f"{MODEL}: second rolled back; release 1 serves" in done.stdout
    assert tiny.state.history()[-1].kind == "rolled_back"  # written when the store lets us again
    assert tiny.state.verify() == []
