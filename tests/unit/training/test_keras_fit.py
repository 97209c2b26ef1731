"""The cases of `keras_fit_cases.py`, in a process of their own: Keras has one backend in each."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).with_name("keras_fit_cases.py")
ROOT = Path(__file__).resolve().parents[3]


def test_every_case_passes() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert re.search(r"^5 passed", ended.stdout, re.MULTILINE), ended.stdout[-400:]
