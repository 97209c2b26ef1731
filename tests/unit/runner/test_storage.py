"""A real stage on disks that are full or read-only: what it says, and that it seals nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import Stage
from tests.small_disks import Mount, fill, read_only

ROOT = Path(__file__).resolve().parents[3]
FORM = {
    "release_id": "manual-1",
    "requested_at": "2026-01-31T10:00:00Z",
    "dataset": "complete-journey",
    "recipe": "popularity",
    "compression": "int8",
    "plan": "replay",
    "seed": 1,
}


def request_release(
    store: Path, elsewhere: Path, *, limit: Callable[[], None] | None = None, **variables: str
) -> tuple[int, str]:
    """Run the stage in a process of its own; return its exit code and its last sentence."""
    request = StageRequest(
        stage=Stage.REQUEST_RELEASE, store_url=f"file://{store}", settings={**FORM}
    )
    file = elsewhere / "request.json"
    file.write_text(request.to_text())
    done = subprocess.run(
        [sys.executable, "-m", "tasks", "request_release", str(file)],
        cwd=ROOT,
        env={
            **os.environ,
            "HEADRACE_STATE": str(elsewhere / "state"),
            "HEADRACE_TERMINATION_LOG": os.devnull,
            **variables,
        },
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        preexec_fn=limit,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()[-1]


def sealed(store: Path) -> list[Path]:
    return list(store.glob("release_request/*/manifest.json"))


def test_a_full_store_is_said_nothing_is_sealed_and_with_room_it_goes_on(
    mount: Mount, tmp_path: Path
) -> None:
    disk = mount("size=256k")
    store, filler = disk / "store", fill(disk)
    code, said = request_release(store, tmp_path)
    assert code == ExitCode.CRASHED  # Airflow tries again: there may be room by then
    assert said.startswith(
        f"request_release: {store}/work: expected room to write, found no space left"
    )
    assert f" bytes free at {store}/work, " in said  # the state lies on another disk
    assert sealed(store) == []
    filler.unlink()
    code, said = request_release(store, tmp_path)
    assert code == ExitCode.DONE, said
    assert len(sealed(store)) == 1


def test_a_read_only_store_is_said_and_is_no_reason_to_try_again(
    mount: Mount, tmp_path: Path
) -> None:
    disk = mount("size=256k")
    for store in (read_only(disk) / "store", disk):
        code, said = request_release(store, tmp_path)
        assert code == ExitCode.BAD_REQUEST
        assert f"found a read-only file system at {store}" in said
        assert "mount it for writing, or name another place (HEADRACE_STORE" in said


def test_a_read_only_store_beside_a_work_folder_that_can_be_written_is_said_too(
    mount: Mount, tmp_path: Path
) -> None:
    store = read_only(mount("size=256k"))
    code, said = request_release(store, tmp_path, HEADRACE_WORK=str(tmp_path / "work"))
    assert code == ExitCode.BAD_REQUEST
    assert f"found a read-only file system at {store}" in said


def no_file_may_grow() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def test_a_limit_on_the_size_of_files_is_said_and_without_it_the_stage_goes_on(
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    code, said = request_release(store, tmp_path, limit=no_file_may_grow)
    assert code == ExitCode.CRASHED
    assert "expected room to write, found a limit on the size of files" in said
    assert sealed(store) == []
    code, said = request_release(store, tmp_path)
    assert code == ExitCode.DONE, said
