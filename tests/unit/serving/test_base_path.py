from typing import Any

import pytest

from tasks.serving.base_path import (
    AllVersions,
    BasePathMissingError,
    LatestVersions,
    SpecificVersions,
    WatchedModel,
    parse_version,
    poll,
    wanted_versions,
)


@pytest.mark.parametrize(
    ("name", "version"),
    (
        ("7", 7),
        ("007", 7),
        ("-3", -3),
        ("+3", 3),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", None),
        ("7.tmp", None),
        ("latest", None),
        ("", None),
        ("1_0", None),
        ("\u0663", None),
    ),
)
def test_a_folder_name_is_a_version_when_it_is_an_int64(name: Any, version: Any) -> None:
    assert parse_version(name) == version


@pytest.fixture
def folder(tmp_path: Any) -> Any:
    for name in ("1", "2", "10", "3.tmp", "latest"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("choice", "versions"),
    (
        (LatestVersions(), {10}),
        (LatestVersions(count=2), {2, 10}),
        (LatestVersions(count=0), {10}),
        (AllVersions(), {1, 2, 10}),
        (SpecificVersions(versions=frozenset({1, 9})), {1}),
    ),
)
def test_a_policy_chooses_among_the_versions_that_are_there(
    folder: Any, choice: Any, versions: Any
) -> None:
    model = WatchedModel(name="m", base_path=folder, choice=choice)
    assert set(wanted_versions(model)) == versions


def test_of_two_names_for_one_version_the_last_in_sort_order_wins(tmp_path: Any) -> None:
    for name in ("1", "001"):
        (tmp_path / name).mkdir()
    model = WatchedModel(name="m", base_path=tmp_path)
    assert wanted_versions(model) == {1: tmp_path / "1"}


def test_one_missing_base_path_spoils_the_whole_round_but_an_empty_one_does_not(
    folder: Any, tmp_path: Any
) -> None:
    there = WatchedModel(name="there", base_path=folder)
    empty = WatchedModel(name="empty", base_path=folder / "latest")
    gone = WatchedModel(name="gone", base_path=tmp_path / "gone")
    assert {name: set(found) for name, found in poll([there, empty]).items()} == {
        "there": {10},
        "empty": set(),
    }
    with pytest.raises(BasePathMissingError, match="Could not find base path"):
        poll([there, gone])
