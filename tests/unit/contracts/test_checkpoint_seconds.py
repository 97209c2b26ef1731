"""How often a stage writes checkpoints is read from its environment, and refused where it is no time."""

from __future__ import annotations

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.contracts.stage_io import checkpoint_seconds

NAME = "HEADRACE_CHECKPOINT_SECONDS"


@pytest.mark.parametrize(
    ("environment", "seconds"),
    (({}, 30.0), ({NAME: ""}, 30.0), ({NAME: "0.5"}, 0.5), ({NAME: "0"}, 0.0)),
)
def test_seconds_are_those_of_the_variable_or_thirty(environment, seconds) -> None:
    assert checkpoint_seconds(environment) == seconds


@pytest.mark.parametrize("text", ("-1", "nan", "inf", "soon", "x" * 5000))
def test_what_is_no_time_is_refused_with_what_to_do(text) -> None:
    with pytest.raises(BadRequestError, match="expected seconds, 0 or more, found") as refused:
        checkpoint_seconds({NAME: text})
    assert "next step: set it to a number, or leave it out for 30" in str(refused.value)
    assert len(str(refused.value)) < 250
