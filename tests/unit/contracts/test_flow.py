from __future__ import annotations

from pathlib import Path

from tasks.contracts.flow import OUTSIDE_THE_LINE, flow_picture
from tasks.contracts.stages import STAGE_FACTS, ArtifactKind, Stage

ROOT = Path(__file__).resolve().parents[3]


def test_the_readme_shows_the_flow_as_it_is_in_the_code() -> None:
    assert f"```text\n{flow_picture()}```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_flow_names_the_stages_in_the_order_of_the_enum() -> None:
    picture = flow_picture()
    places = [picture.index(stage.value) for stage in Stage if stage not in OUTSIDE_THE_LINE]
    assert places == sorted(places)


def test_stages_make_artifacts_in_the_order_of_their_kinds() -> None:
    made = [STAGE_FACTS[stage].produces for stage in Stage]
    assert made == list(ArtifactKind)
