"""Which errors are the disk's fault, and what is said of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tasks.contracts.errors import BadRequestError, GateRefusedError, StoreUnavailableError
from tasks.contracts.storage_faults import storage_fault, storage_faults_told

EVENTS = "/data/events.parquet"


def refused(number: int, *paths: str) -> OSError:
    """Return the system's error about these paths."""
    if len(paths) == 2:
        return OSError(number, os.strerror(number), paths[0], None, paths[1])
    return OSError(number, os.strerror(number), *paths)


def test_a_full_disk_is_said_with_the_file_the_room_and_the_next_step(tmp_path: Path) -> None:
    file = str(tmp_path / "x")
    fault = storage_fault(refused(errno.ENOSPC, file), "train_model: work", [tmp_path])
    assert isinstance(fault, StoreUnavailableError)  # a retry helps once there is room
    before, _, after = str(fault).partition(" bytes free")
    assert before.startswith(
        f"train_model: work: expected room to write, found no space left at {file} ("
    )
    assert after == (
        f" at {tmp_path}); nothing half-written is visible; free space (`headrace gc` removes what "
        "no release needs), then try again: a stage goes on from its last checkpoint"
    )


def test_the_room_of_a_disk_is_said_once_however_many_folders_lie_on_it(tmp_path: Path) -> None:
    folders = [tmp_path / "work", tmp_path / "store"]
    fault = storage_fault(refused(errno.ENOSPC), "w", folders)
    assert str(fault).count("bytes free") == 1
    assert f"bytes free at {tmp_path}/work)" in str(fault)


READ_ONLY = (
    "w: expected a folder that can be written, found {}; nothing was written; mount it for "
    "writing, or name another place (HEADRACE_STORE, HEADRACE_WORK, HEADRACE_STATE), then start "
    "again: a retry would find the same"
)


@pytest.mark.parametrize("number", (errno.EACCES, errno.EPERM))
@pytest.mark.parametrize("place", ("work", "store"))
def test_a_missing_right_in_a_folder_of_ours_is_a_folder_that_cannot_be_written(
    tmp_path: Path, number: int, place: str
) -> None:
    file = f"{tmp_path}/{place}/key/x"
    fault = storage_fault(refused(number, file), "w", [tmp_path / "work", tmp_path / "store"])
    assert isinstance(fault, BadRequestError)
    assert str(fault) == READ_ONLY.format(f"no right to write at {file}")


@pytest.mark.parametrize("number", (errno.EACCES, errno.EPERM))
@pytest.mark.parametrize(
    "paths",
    (
        pytest.param((EVENTS,), id="a user's file"),
        pytest.param((), id="no file named"),
        pytest.param(("{}/workshop/events.parquet",), id="a folder that begins with the same name"),
    ),
)
def test_a_missing_right_elsewhere_is_no_fault_of_the_disk(
    tmp_path: Path, number: int, paths: tuple[str, ...]
) -> None:
    error = refused(number, *(path.format(tmp_path) for path in paths))
    assert storage_fault(error, "w", [tmp_path / "work"]) is None


def test_a_move_into_a_folder_of_ours_is_found_by_where_it_goes(tmp_path: Path) -> None:
    error = refused(errno.EACCES, "/elsewhere/x", str(tmp_path / "x"))
    assert storage_fault(error, "w", [tmp_path]) is not None
    assert storage_fault(error, "w", [tmp_path / "other"]) is None


def test_a_path_that_a_library_keeps_in_its_text_only_is_found_there(tmp_path: Path) -> None:
    said = "Failed to open local file '{}/x'. Detail: [errno 13] Permission denied"
    ours = PermissionError(errno.EACCES, said.format(tmp_path))
    assert isinstance(storage_fault(ours, "w", [tmp_path]), BadRequestError)
    theirs = PermissionError(errno.EACCES, said.format("/data"))
    assert storage_fault(theirs, "w", [tmp_path]) is None


def test_a_read_only_file_system_is_one_wherever_it_is(tmp_path: Path) -> None:
    fault = storage_fault(refused(errno.EROFS, "/mnt/x"), "w", [tmp_path])
    assert isinstance(fault, BadRequestError)
    assert str(fault) == READ_ONLY.format("a read-only file system at /mnt/x")


def raised(*, hide: bool) -> RuntimeError:
    """Return an error that came up while a full disk was handled."""
    try:
        try:
            raise refused(errno.ENOSPC, "/cache/metrics")
        except OSError:
            if hide:
                raise RuntimeError("shape mismatch") from None
            raise RuntimeError("shape mismatch")  # noqa: B904  the case in question
    except RuntimeError as error:
        return error


def test_what_an_error_came_from_counts_unless_it_was_said_to_come_from_nothing(
    tmp_path: Path,
) -> None:
    assert isinstance(storage_fault(raised(hide=False), "w", [tmp_path]), StoreUnavailableError)
    assert storage_fault(raised(hide=True), "w", [tmp_path]) is None


def test_an_error_of_a_library_that_has_lost_the_number_is_known_by_its_words(
    tmp_path: Path,
) -> None:
    full = RuntimeError("[enforce fail at inline_container.cc] No space left on device")
    assert isinstance(storage_fault(full, "w", [tmp_path]), StoreUnavailableError)
    fixed = RuntimeError("cannot open database: Read-only file system")
    assert isinstance(storage_fault(fixed, "w", [tmp_path]), BadRequestError)


def test_errors_of_ours_and_all_others_pass_as_they_are(tmp_path: Path) -> None:
    for error in (GateRefusedError("x", ["y"]), ValueError("z"), refused(errno.EACCES, EVENTS)):
        with pytest.raises(type(error)) as caught, storage_faults_told("w", [tmp_path]):
            raise error
        assert caught.value is error
