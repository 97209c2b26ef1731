from typing import Any

import pytest

from tasks.serving.version_policy import Action, Managed, Move, Phase, next_action


def managed(version: Any, phase: Any, *, aspired: Any = True) -> Any:
    return Managed(version=version, phase=phase, aspired=aspired)


READY, NEW, FAILED, LOADING = Phase.READY, Phase.NEW, Phase.FAILED, Phase.LOADING


@pytest.mark.parametrize(
    ("versions", "expected"),
    (
        pytest.param([], None, id="nothing to do without versions"),
        pytest.param(
            [managed(1, NEW), managed(2, NEW)],
            Action(move=Move.LOAD, version=2),
            id="the highest new version loads first",
        ),
        pytest.param(
            [managed(1, READY, aspired=False), managed(2, NEW)],
            Action(move=Move.LOAD, version=2),
            id="the new version loads before the last old one leaves",
        ),
        pytest.param(
            [managed(1, READY, aspired=False), managed(2, LOADING)],
            None,
            id="the old version stays while the new one loads",
        ),
        pytest.param(
            [managed(1, READY, aspired=False), managed(2, READY)],
            Action(move=Move.UNLOAD, version=1),
            id="the old version leaves when the new one is ready",
        ),
        pytest.param(
            [managed(1, READY, aspired=False), managed(2, FAILED)],
            None,
            id="the old version keeps serving when the new one failed",
        ),
        pytest.param(
            [managed(1, READY, aspired=False), managed(2, READY, aspired=False), managed(3, NEW)],
            Action(move=Move.UNLOAD, version=1),
            id="of two old versions the lower leaves before the new one loads",
        ),
        pytest.param(
            [managed(1, READY, aspired=False)],
            Action(move=Move.UNLOAD, version=1),
            id="everything leaves when nothing is aspired to",
        ),
    ),
)
def test_next_action(versions: Any, expected: Any) -> None:
    assert next_action(versions) == expected
