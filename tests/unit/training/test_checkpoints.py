"""A checkpoint is whole or not there."""

from __future__ import annotations

import torch

from tasks.training.checkpoints import NAME, load_checkpoint, save_checkpoint


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_checkpoint(tmp_path / "nothing") is None


def test_the_last_checkpoint_comes_back(tmp_path):
    save_checkpoint(tmp_path / "here", {"epoch": 1, "weights": torch.zeros(2)})
    save_checkpoint(tmp_path / "here", {"epoch": 2, "weights": torch.ones(2)})

    found = load_checkpoint(tmp_path / "here")

    assert found is not None
    assert found["epoch"] == 2
    assert torch.equal(found["weights"], torch.ones(2))


def test_a_half_written_file_of_a_killed_process_is_not_read(tmp_path):
    save_checkpoint(tmp_path, {"epoch": 1})
    (tmp_path / f".{NAME}").write_bytes(b"half")

    assert load_checkpoint(tmp_path) == {"epoch": 1}
