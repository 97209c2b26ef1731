"""The flow as a picture in text, made from `Stage`: README shows it, a test compares."""

from __future__ import annotations

from tasks.contracts.stages import STAGE_FACTS, STAGES_BY_HAND, Stage

OUTSIDE_THE_LINE = (
    Stage.ROLL_BACK_RELEASE,
    *STAGES_BY_HAND,
    Stage.MIRROR_RELEASE,
    Stage.GATE_ARTIFACT,
)
REPEATED = (Stage.SHIFT_TRAFFIC, Stage.JUDGE_STEP)


def flow_picture() -> str:
    """Return one line per stage: its image, what it makes, and the gate behind it."""
    lines = []
    for stage in Stage:
        if stage in OUTSIDE_THE_LINE:
            continue
        facts = STAGE_FACTS[stage]
        gate = "  =|gate|=>" if facts.gated else "  ------->"
        again = "  (each traffic step)" if stage in REPEATED else ""
        lines.append(
            f"{stage.value:<17} [{facts.image.value:<10}]  {facts.produces.value:<16}{gate}{again}"
        )
    lines.append(f"{Stage.ROLL_BACK_RELEASE.value:<17} from any failure after staging")
    lines.append(
        f"{Stage.HOTFIX_STABLE.value:<17} by hand: another stable release in an experiment"
    )
    lines.append(f"{Stage.MIRROR_RELEASE.value:<17} copies the outcome to MLflow; fails nothing")
    return "\n".join(line.rstrip() for line in lines) + "\n"
