"""A checkpoint is whole or not there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.contracts.errors import BadRequestError
from tasks.contracts.storage_faults import storage_fault
from tasks.training import checkpoints
from tasks.training.checkpoints import RECORD
from tasks.training.fit_identity import FitIdentity
from tests.small_disks import Mount

IDENTITY = FitIdentity(
    decides={"seed": 1, "learning_rate": 0.01, "torch": "2.9", "data": "9 bytes"},
    machine={"device": "cpu", "cpu": "Xeon", "threads": 1},
)


def silent(sentence: str) -> None:
    pytest.fail(f"nothing is damaged here, but: {sentence}")


def save_checkpoint(folder: Path, state: dict[str, Any], ranks: int = 1) -> None:
    checkpoints.save_checkpoint(folder, state, IDENTITY, ranks=ranks)


def load_checkpoint(
    folder: Path, say: Callable[[str], None], identity: FitIdentity = IDENTITY, ranks: int = 1
) -> dict[str, Any] | None:
    found = checkpoints.load_checkpoint(folder, identity, say, ranks=ranks)
    return None if found is None else found.state


def state_of(epoch: int) -> dict[str, Any]:
    """Return all kinds of values that a fit keeps."""
    return {
        "epoch": epoch,
        "weights": {"items.weight": torch.full((3, 2), 0.1 * epoch), "bias": torch.tensor(-0.0)},
        "random": [torch.get_rng_state(), {"words": [2**32 - 1, 7], "gauss": None}],
        "rates": [1e-3, 0.1 + 0.2],
        "seen": torch.tensor([2**40, -1]),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def newest(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_checkpoint(tmp_path / "nothing", silent) is None


def test_the_last_checkpoint_comes_back_with_every_bit_and_its_predecessor_is_gone(tmp_path):
    for epoch in range(1, 12):  # 10 comes after 9, not after 1
        save_checkpoint(tmp_path / "here", state_of(epoch))

    found = load_checkpoint(tmp_path / "here", silent)

    assert same(found, state_of(11))
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["checkpoint-11"]


def test_what_a_killed_process_left_half_written_is_not_read_and_gives_way(tmp_path):
    save_checkpoint(tmp_path, state_of(1))
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / ".checkpoint-2")
    (tmp_path / ".checkpoint-2" / RECORD).write_text('{"half')

    assert same(load_checkpoint(tmp_path, silent), state_of(1))
    save_checkpoint(tmp_path, state_of(2))
    assert same(load_checkpoint(tmp_path, silent), state_of(2))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_killed_before_the_rename_the_one_before_is_there(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, state_of(1))

    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.name == ".checkpoint-2":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        save_checkpoint(tmp_path, state_of(2))

    assert same(load_checkpoint(tmp_path, silent), state_of(1))


def test_a_full_disk_is_told_as_such_and_the_last_checkpoint_stays(mount: Mount):
    disk = mount("size=2m")
    save_checkpoint(disk, state_of(1))

    with pytest.raises(Exception, match=r".") as caught:  # torch's words say nothing of a disk
        save_checkpoint(disk, {"weights": torch.zeros(1_000_000)})

    assert "found no space left" in str(storage_fault(caught.value, "train_model", []))
    assert same(load_checkpoint(disk, silent), state_of(1))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def torch_file(folder: Path) -> Path:
    return next(folder.glob("*.distcp"))


@pytest.mark.parametrize(
    "damage",
    (
        pytest.param(lambda folder: (folder / RECORD).unlink(), id="its record is gone"),
        pytest.param(lambda folder: (folder / RECORD).write_text("{"), id="its record is torn"),
        pytest.param(lambda folder: (folder / ".metadata").unlink(), id="torch's table is gone"),
        pytest.param(lambda folder: flip(folder / ".metadata"), id="a bit of torch's table"),
        pytest.param(lambda folder: torch_file(folder).write_bytes(b""), id="no tensors"),
        pytest.param(lambda folder: flip(torch_file(folder)), id="a bit of the tensors"),
        pytest.param(lambda folder: (folder / "more").touch(), id="a file too much"),
    ),
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    tmp_path, damage: Callable[[Path], Any]
):
    save_checkpoint(tmp_path, state_of(1))
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / "kept")
    save_checkpoint(tmp_path, state_of(2))
    (tmp_path / "kept").rename(tmp_path / "checkpoint-1")  # killed before it was removed
    damage(newest(tmp_path))
    said: list[str] = []

    assert same(load_checkpoint(tmp_path, said.append), state_of(1))
    assert said == ["checkpoint-2 is damaged: it is not used"]
    damage(tmp_path / "checkpoint-1")
    assert load_checkpoint(tmp_path, said.append) is None


def test_another_number_of_ranks_is_refused_with_what_to_do(tmp_path):
    save_checkpoint(tmp_path, state_of(1), ranks=2)

    assert load_checkpoint(tmp_path, silent, ranks=2) is not None
    said = re.escape("expected one of 1 ranks, found one of 2: go on with as many ranks as began")
    with pytest.raises(BadRequestError, match=said):
        load_checkpoint(tmp_path, silent)


@pytest.mark.parametrize(
    ("changes", "said"),
    (
        ({"seed": 2}, "differs in 1: seed: 2 expected, 1 found; next step: take another folder"),
        ({"torch": "3.0"}, "differs in 1: torch: 3.0 expected, 2.9 found"),
        ({"data": "8 bytes"}, "differs in 1: data: 8 bytes expected, 9 bytes found"),
        ({"loss": "gbce"}, "differs in 1: loss: gbce expected, nothing found"),
        ({"a": 1, "b": 2, "c": "x" * 5000, "d": 4}, "differs in 4: a: 1 expected, nothing found"),
    ),
    ids=("seed", "torch", "data", "a setting that it lacks", "much"),
)
def test_a_checkpoint_of_another_fit_is_refused_with_what_differs_and_what_to_do(
    tmp_path, changes: dict[str, Any], said: str
):
    save_checkpoint(tmp_path, state_of(1))
    other = replace(IDENTITY, decides={**IDENTITY.decides, **changes})

    with pytest.raises(BadRequestError, match=re.escape(said)) as refused:
        load_checkpoint(tmp_path, silent, other)
    assert str(tmp_path / "checkpoint-1") in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert load_checkpoint(tmp_path, silent) is not None, "the folder is left as it was"


def test_what_a_checkpoint_says_more_than_the_fit_does_is_another_fit(tmp_path):
    save_checkpoint(tmp_path, state_of(1))
    fewer = {name: value for name, value in IDENTITY.decides.items() if name != "seed"}

    with pytest.raises(BadRequestError, match="seed: nothing expected, 1 found"):
        load_checkpoint(tmp_path, silent, replace(IDENTITY, decides=fewer))


def test_on_another_cpu_type_a_fit_goes_on_with_a_warning_that_it_keeps(tmp_path):
    xeon, epyc = IDENTITY, replace(IDENTITY, machine={**IDENTITY.machine, "cpu": "EPYC"})
    save_checkpoint(tmp_path, state_of(1))

    moved = checkpoints.load_checkpoint(tmp_path, epyc, silent)
    assert moved is not None
    assert same(moved.state, state_of(1))
    assert moved.identity.place("epoch 1") == (
        "epoch 1 (WARNING: begun on another machine (cpu: EPYC expected, Xeon found), "
        "its bits are not promised)"
    )

    checkpoints.save_checkpoint(tmp_path, state_of(2), moved.identity)
    for here in (epyc, xeon):  # killed again: what was trained on the other one stays so
        again = checkpoints.load_checkpoint(tmp_path, here, silent)
        assert again is not None
        assert "epoch 2 (WARNING: begun on" in again.identity.place("epoch 2")


def test_on_the_same_machine_a_fit_goes_on_without_a_warning(tmp_path):
    save_checkpoint(tmp_path, state_of(1))

    found = checkpoints.load_checkpoint(tmp_path, IDENTITY, silent)

    assert found is not None
    assert found.identity == IDENTITY
    assert found.identity.place("epoch 1") == "epoch 1"


def test_a_checkpoint_that_does_not_say_of_what_fit_it_is_is_refused(tmp_path):
    save_checkpoint(tmp_path, state_of(1))
    record = json.loads((tmp_path / "checkpoint-1" / RECORD).read_text())
    del record["fit"]
    (tmp_path / "checkpoint-1" / RECORD).write_text(
        json.dumps({**record, "format": "checkpoint/1"})
    )

    said = "found checkpoint/1 of an earlier Headrace; next step: take another folder, or remove it"
    with pytest.raises(BadRequestError, match=said):
        load_checkpoint(tmp_path, silent)


def test_a_later_format_is_refused(tmp_path):
    save_checkpoint(tmp_path, state_of(1))
    record = json.loads((tmp_path / "checkpoint-1" / RECORD).read_text())
    (tmp_path / "checkpoint-1" / RECORD).write_text(
        json.dumps({**record, "format": "checkpoint/3"})
    )

    with pytest.raises(BadRequestError, match="newer Headrace"):
        load_checkpoint(tmp_path, silent)


def test_the_file_of_an_earlier_headrace_is_refused_and_names_of_others_are_left_alone(tmp_path):
    for name in ("checkpoint-last", "checkpoint-1x", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-7").touch()  # a file
    assert load_checkpoint(tmp_path, silent) is None

    torch.save({"epoch": 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(BadRequestError, match="a file of an earlier Headrace: remove it"):
        load_checkpoint(tmp_path, silent)
    save_checkpoint(tmp_path, state_of(8))
    assert same(load_checkpoint(tmp_path, silent), state_of(8))
    assert (tmp_path / "other").is_dir()
