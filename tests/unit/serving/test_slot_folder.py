import json
from typing import Any

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.serving.slot_folder import publish, read_slots, remove_older, withdraw


@pytest.fixture
def saved_model(tmp_path: Any) -> Any:
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables/variables.index").write_bytes(b"index")
    return folder


def test_a_version_appears_whole_and_publishing_again_changes_nothing(
    saved_model: Any, tmp_path: Any
) -> None:
    slot = tmp_path / "slot"
    assert publish(saved_model, slot, 7)
    assert not publish(saved_model, slot, 7)
    assert (slot / "7/variables/variables.index").read_bytes() == b"index"
    assert [path.name for path in slot.iterdir()] == ["7"]


def test_what_a_kill_left_half_copied_does_not_hinder(saved_model: Any, tmp_path: Any) -> None:
    half = tmp_path / "slot/7.tmp/old"
    half.mkdir(parents=True)
    assert publish(saved_model, tmp_path / "slot", 7)
    assert not (tmp_path / "slot/7/old").exists()


def test_a_number_is_never_used_for_other_bytes(saved_model: Any, tmp_path: Any) -> None:
    publish(saved_model, tmp_path / "slot", 7)
    (saved_model / "saved_model.pb").write_bytes(b"another graph")
    with pytest.raises(BadRequestError, match=r"found others \(saved_model.pb\)"):
        publish(saved_model, tmp_path / "slot", 7)


def test_older_versions_go_and_other_folders_stay(saved_model: Any, tmp_path: Any) -> None:
    slot = tmp_path / "slot"
    for version in (3, 7):
        publish(saved_model, slot, version)
    (slot / "notes").mkdir()
    assert remove_older(slot, 7) == [3]
    assert sorted(path.name for path in slot.iterdir()) == ["7", "notes"]
    withdraw(slot, 7)
    withdraw(slot, 7)
    assert sorted(path.name for path in slot.iterdir()) == ["notes"]


def test_who_comes_late_does_not_take_out_what_a_later_release_published(
    saved_model: Any, tmp_path: Any
) -> None:
    slot = tmp_path / "slot"
    for version in (2, 3, 4):
        publish(saved_model, slot, version)
    assert remove_older(slot, 3) == [2]
    assert sorted(path.name for path in slot.iterdir()) == ["3", "4"]


def test_slots_are_read_by_colour(tmp_path: Any) -> None:
    path = tmp_path / "slots.json"
    blue = {"grpc": 1, "rest": 2, "directory": "/x"}
    path.write_text(json.dumps({"format": "slots/1", "model": "m", "slots": {"blue": blue}}))
    slot = read_slots(path)["blue"]
    assert (slot.grpc_address, slot.rest_url) == ("127.0.0.1:1", "http://127.0.0.1:2")
    path.write_text(json.dumps({"format": "slots/1", "model": "m", "slots": {"blue": {}}}))
    with pytest.raises(BadRequestError, match="expected colours with grpc, rest and directory"):
        read_slots(path)
