from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tasks.contracts.code_digest import code_digest, modules_reached
from tasks.contracts.stages import STAGE_FACTS, Stage

ROOT = Path(__file__).resolve().parents[3]


def test_every_stage_has_a_file_and_every_file_a_stage() -> None:
    files = {path.stem for path in (ROOT / "tasks/stages").glob("*.py")} - {"__init__"}
    assert files == {stage.value for stage in Stage}
    assert set(STAGE_FACTS) == set(Stage)


def test_a_stage_reaches_what_it_imports_and_nothing_else() -> None:
    reached = modules_reached("tasks.stages.request_release")
    assert "tasks.contracts.requests" in reached
    assert "tasks.rollout.state" in reached
    assert not [name for name in reached if name.startswith(("tasks.gates", "tasks.training"))]


def test_the_digest_is_equal_in_another_process() -> None:
    text = "from tasks.contracts.code_digest import *; print(code_digest(Stage.TRAIN_MODEL))"
    out = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, check=True)
    assert out.stdout.decode().strip() == code_digest(Stage.TRAIN_MODEL)


def test_stages_of_other_code_have_other_digests() -> None:
    assert len({code_digest(stage) for stage in Stage}) == len(Stage)
