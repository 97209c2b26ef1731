from __future__ import annotations

from pathlib import Path

from tests.faults.fault_table import FAULTS, page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_the_table_of_the_tests() -> None:
    found = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert found == page(), "run python -m tests.faults.fault_table > docs/faults.md"


def test_every_fault_is_named_once_and_says_something() -> None:
    keys = [fault.key for fault in FAULTS]
    assert len(keys) == len(set(keys))
    assert all(fault.says and all(fault.says) for fault in FAULTS)
