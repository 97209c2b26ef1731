from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts.requests import PLANS
from tasks.rollout.decide import Observation, RolloutStatus, next_status
from tasks.rollout.phases import Ask, Decision, Pause, Phase

PLAN = PLANS["replay"]  # 5 %, 25 %, 50 %
EMPTY = RolloutStatus(phase=Phase.EMPTY, has_stable=False)
SERVING = RolloutStatus(phase=Phase.SERVING, has_stable=True)
STAGED = RolloutStatus(phase=Phase.STAGED, has_stable=True)
FIRST = RolloutStatus(phase=Phase.STAGED, has_stable=False)
STEP_1 = RolloutStatus(phase=Phase.STEPPING, has_stable=True, step=1, share=500)
JUDGED_1 = replace(STEP_1, verdicts={1: Decision.PROCEED})
STEP_2 = replace(JUDGED_1, step=2, share=2500)
STEP_3 = replace(STEP_2, step=3, share=5000, verdicts={1: Decision.PROCEED, 2: Decision.PROCEED})
SHIPPED = replace(STEP_3, verdicts={**STEP_3.verdicts, 3: Decision.SHIP})
LAPSED = replace(STEP_1, phase=Phase.PAUSED, share=0, paused_by=Pause.LEASE)
BY_HAND = replace(LAPSED, paused_by=Pause.PERSON)
FOR_GOOD = replace(LAPSED, paused_by=Pause.VERDICT)
CUT = replace(FOR_GOOD, verdicts={1: Decision.ROLL_BACK})
BROKEN = replace(LAPSED, paused_by=Pause.SLOT)
HALTED = replace(STEP_1, phase=Phase.HALTED, share=10_000)


def seen(ask: Ask = Ask.NOTHING, **others: object) -> Observation:
    return Observation(asked=ask, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "what", "then"),
    (
        pytest.param(EMPTY, seen(Ask.STAGE), FIRST, id="a first release can be staged"),
        pytest.param(SERVING, seen(Ask.STAGE), STAGED, id="a candidate can be staged"),
        pytest.param(STAGED, seen(Ask.BEGIN_STEP, step=1), STEP_1, id="step 1 follows staging"),
        pytest.param(
            JUDGED_1,
            seen(Ask.BEGIN_STEP, step=2),
            STEP_2,
            id="step 2 follows a favourable verdict on step 1",
        ),
        pytest.param(
            STEP_2, seen(Ask.BEGIN_STEP, step=1), STEP_2, id="a repeated old step changes nothing"
        ),
        pytest.param(
            JUDGED_1,
            seen(Ask.BEGIN_STEP, step=1),
            JUDGED_1,
            id="a repeated judged step changes nothing",
        ),
        pytest.param(
            STEP_1,
            seen(Ask.RECORD_VERDICT, step=1, decision=Decision.PROCEED),
            JUDGED_1,
            id="a favourable verdict keeps the share",
        ),
        pytest.param(
            STEP_1,
            seen(Ask.RECORD_VERDICT, step=1, decision=Decision.ROLL_BACK),
            replace(FOR_GOOD, verdicts={1: Decision.ROLL_BACK}),
            id="a bad verdict takes the share away at once",
        ),
        pytest.param(
            LAPSED,
            seen(Ask.RECORD_VERDICT, step=1, decision=Decision.KEEP_CHAMPION),
            replace(FOR_GOOD, verdicts={1: Decision.KEEP_CHAMPION}),
            id="after a bad verdict a renewed lease no longer resumes",
        ),
        pytest.param(STEP_1, seen(lease_lapsed=True), LAPSED, id="a lapsed lease pauses at 0 %"),
        pytest.param(LAPSED, seen(Ask.RENEW), STEP_1, id="renewal resumes what a lapse paused"),
        pytest.param(BY_HAND, seen(Ask.RENEW), BY_HAND, id="renewal leaves a person's pause alone"),
        pytest.param(BY_HAND, seen(Ask.RESUME), STEP_1, id="a person resumes"),
        pytest.param(
            LAPSED, seen(Ask.BEGIN_STEP, step=1), STEP_1, id="beginning a paused step resumes it"
        ),
        pytest.param(
            BROKEN, seen(Ask.BEGIN_STEP, step=1), STEP_1, id="a step resumes when its slot is well"
        ),
        pytest.param(
            BY_HAND,
            seen(Ask.BEGIN_STEP, step=1),
            BY_HAND,
            id="a task that runs again does not resume what a person paused",
        ),
        pytest.param(
            replace(BY_HAND, verdicts={1: Decision.PROCEED}),
            seen(Ask.BEGIN_STEP, step=2),
            replace(BY_HAND, step=2, verdicts={1: Decision.PROCEED}),
            id="the next step begins paused when a person paused the one before",
        ),
        pytest.param(
            replace(BY_HAND, step=2, verdicts={1: Decision.PROCEED}),
            seen(Ask.RESUME),
            STEP_2,
            id="a person resumes a step that began paused",
        ),
        pytest.param(STEP_1, seen(Ask.PAUSE), BY_HAND, id="a person pauses"),
        pytest.param(LAPSED, seen(Ask.PAUSE), BY_HAND, id="a person pauses what a lapse paused"),
        pytest.param(CUT, seen(Ask.PAUSE), CUT, id="a person's pause makes no cut resumable"),
        pytest.param(STEP_1, seen(Ask.CUT, step=1), CUT, id="harm takes the share away"),
        pytest.param(JUDGED_1, seen(Ask.CUT, step=1), CUT, id="harm outweighs an earlier verdict"),
        pytest.param(LAPSED, seen(Ask.CUT, step=1), CUT, id="a paused step can be cut for good"),
        pytest.param(CUT, seen(Ask.RENEW), CUT, id="renewal does not resume what was cut"),
        pytest.param(
            CUT, seen(Ask.BEGIN_STEP, step=1), CUT, id="beginning again does not resume a cut"
        ),
        pytest.param(
            LAPSED,
            seen(Ask.RENEW, candidate_ready=False),
            LAPSED,
            id="renewal waits for a candidate that does not answer",
        ),
        pytest.param(
            LAPSED,
            seen(Ask.RENEW, stable_ready=False),
            LAPSED,
            id="renewal waits for a stable that does not answer",
        ),
        pytest.param(FIRST, seen(Ask.PROMOTE), SERVING, id="the first release needs no steps"),
        pytest.param(SHIPPED, seen(Ask.PROMOTE), SERVING, id="a shipped candidate is promoted"),
        pytest.param(
            replace(SHIPPED, phase=Phase.PAUSED, share=0, paused_by=Pause.LEASE),
            seen(Ask.PROMOTE),
            SERVING,
            id="a lease that lapsed during approval does not lose the verdict",
        ),
        pytest.param(STEP_2, seen(Ask.ROLL_BACK), SERVING, id="any step can be rolled back"),
        pytest.param(STEP_2, seen(Ask.HOTFIX), STEP_2, id="a hotfix of stable moves no user"),
        pytest.param(BY_HAND, seen(Ask.HOTFIX), BY_HAND, id="a hotfix resumes nothing"),
        pytest.param(
            HALTED,
            seen(Ask.HOTFIX, stable_ready=False),
            HALTED,
            id="a broken stable can be replaced while the candidate takes everybody",
        ),
        pytest.param(FIRST, seen(Ask.ROLL_BACK), EMPTY, id="a first release can be dropped"),
        pytest.param(SERVING, seen(Ask.ROLL_BACK), SERVING, id="a second rollback changes nothing"),
        pytest.param(
            STEP_1,
            seen(candidate_ready=False),
            BROKEN,
            id="a candidate that does not answer gets nobody",
        ),
        pytest.param(
            STEP_1,
            seen(stable_ready=False),
            HALTED,
            id="when stable breaks, the healthy candidate takes everybody",
        ),
        pytest.param(
            HALTED,
            seen(lease_lapsed=True),
            HALTED,
            id="a lapse does not send users back to a broken stable",
        ),
        pytest.param(
            HALTED,
            seen(candidate_ready=False),
            BROKEN,
            id="a halted candidate that breaks gives everybody back to a healed stable",
        ),
        pytest.param(
            HALTED, seen(Ask.ROLL_BACK), SERVING, id="halted, with stable healed: rolled back"
        ),
        pytest.param(
            HALTED,
            seen(Ask.PROMOTE, stable_ready=False),
            SERVING,
            id="halted: a person may promote without a verdict",
        ),
    ),
)
def test_what_follows(now: RolloutStatus, what: Observation, then: RolloutStatus) -> None:
    found = next_status(PLAN, now, what)
    assert (found.status, found.refused) == (then, None)


@pytest.mark.parametrize(
    ("now", "what", "why"),
    (
        pytest.param(STEP_1, seen(Ask.STAGE), "in progress", id="two releases at a time"),
        pytest.param(STAGED, seen(Ask.BEGIN_STEP, step=2), "next step is 1", id="a step left out"),
        pytest.param(
            STEP_1, seen(Ask.BEGIN_STEP, step=2), "needs the verdict", id="an unjudged step"
        ),
        pytest.param(STEP_3, seen(Ask.BEGIN_STEP, step=4), "steps 1 to 3", id="a step too many"),
        pytest.param(
            FIRST, seen(Ask.BEGIN_STEP, step=1), "no stable", id="steps without a champion"
        ),
        pytest.param(
            SERVING, seen(Ask.BEGIN_STEP, step=1), "staged", id="steps without a candidate"
        ),
        pytest.param(STEP_3, seen(Ask.PROMOTE), "verdict ship", id="promotion without a verdict"),
        pytest.param(STAGED, seen(Ask.PROMOTE), "verdict ship", id="promotion without any step"),
        pytest.param(
            SHIPPED,
            seen(Ask.PROMOTE, candidate_ready=False),
            "just became paused",
            id="promotion of a broken slot",
        ),
        pytest.param(SERVING, seen(Ask.PROMOTE), "expected a candidate", id="promotion of nothing"),
        pytest.param(
            HALTED,
            seen(Ask.ROLL_BACK, stable_ready=False),
            "stable does not answer",
            id="a rollback to a broken stable",
        ),
        pytest.param(
            replace(FOR_GOOD, verdicts={1: Decision.ROLL_BACK}),
            seen(Ask.RESUME),
            "verdict on step 1",
            id="resuming against the verdict",
        ),
        pytest.param(
            JUDGED_1,
            seen(Ask.RECORD_VERDICT, step=1, decision=Decision.ROLL_BACK),
            "judged differently",
            id="a second, other verdict",
        ),
        pytest.param(
            STEP_2,
            seen(Ask.RECORD_VERDICT, step=1, decision=Decision.ROLL_BACK),
            "judged differently",
            id="a second, other verdict on an earlier step",
        ),
        pytest.param(
            STAGED,
            seen(Ask.BEGIN_STEP, step=1, stable_ready=False),
            "stable's slot does not answer",
            id="steps beside a broken stable",
        ),
        pytest.param(
            BY_HAND,
            seen(Ask.RESUME, stable_ready=False),
            "stable's slot does not answer",
            id="resuming beside a broken stable",
        ),
        pytest.param(CUT, seen(Ask.RESUME), "verdict on step 1", id="resuming what was cut"),
        pytest.param(SERVING, seen(Ask.HOTFIX), "release it as usual", id="a hotfix of nothing"),
        pytest.param(FIRST, seen(Ask.HOTFIX), "no stable release", id="a hotfix before any stable"),
        pytest.param(
            STEP_2,
            seen(Ask.HOTFIX, hotfix_ready=False),
            "the hotfix's slot does not answer",
            id="a hotfix that does not answer",
        ),
        pytest.param(
            replace(SHIPPED, phase=Phase.PAUSED, share=0, paused_by=Pause.PERSON),
            seen(Ask.PROMOTE),
            "a person paused it",
            id="promoting what a person paused",
        ),
        pytest.param(
            replace(SHIPPED, phase=Phase.PAUSED, share=0, verdicts={3: Decision.ROLL_BACK}),
            seen(Ask.PROMOTE),
            "verdict ship",
            id="promotion of what was cut",
        ),
        pytest.param(STEP_2, seen(Ask.CUT, step=1), "in progress is 2", id="a cut that comes late"),
        pytest.param(SERVING, seen(Ask.CUT, step=1), "a step in progress", id="a cut of nothing"),
        pytest.param(
            HALTED, seen(Ask.CUT, step=1), "a step in progress", id="a cut of all that answers"
        ),
    ),
)
def test_what_is_refused(now: RolloutStatus, what: Observation, why: str) -> None:
    found = next_status(PLAN, now, what)
    assert found.refused is not None
    assert why in found.refused


@pytest.mark.parametrize(
    ("now", "what", "may_pass"),
    (
        pytest.param(SHIPPED, seen(Ask.PROMOTE, candidate_ready=False), True, id="a silent slot"),
        pytest.param(
            STAGED, seen(Ask.BEGIN_STEP, step=1, stable_ready=False), True, id="a silent stable"
        ),
        pytest.param(HALTED, seen(Ask.BEGIN_STEP, step=2), True, id="a halt"),
        pytest.param(STAGED, seen(Ask.BEGIN_STEP, step=2), False, id="a step too early"),
        pytest.param(STAGED, seen(Ask.PROMOTE), False, id="a promotion too early"),
        pytest.param(
            STAGED,
            seen(Ask.PROMOTE, candidate_ready=False),
            False,
            id="a promotion too early of a silent slot",
        ),
        pytest.param(
            BY_HAND, seen(Ask.RESUME, stable_ready=False), False, id="a person's resume: no task"
        ),
    ),
)
def test_only_what_a_task_may_wait_for_is_tried_again(
    now: RolloutStatus, what: Observation, may_pass: bool
) -> None:
    found = next_status(PLAN, now, what)
    assert found.refused is not None
    assert found.may_pass is may_pass


observations = st.builds(
    Observation,
    asked=st.sampled_from(Ask),
    step=st.one_of(st.none(), st.integers(0, 4)),
    decision=st.one_of(st.none(), st.sampled_from(Decision)),
    lease_lapsed=st.booleans(),
    stable_ready=st.booleans(),
    candidate_ready=st.booleans(),
)


@given(st.sampled_from([EMPTY, SERVING]), st.lists(observations, max_size=30))
def test_no_history_of_any_kind_breaks_the_promises(
    now: RolloutStatus, history: list[Observation]
) -> None:
    for what in history:
        status = next_status(PLAN, now, what).status
        in_step = status.phase is Phase.STEPPING
        assert (status.share > 0) is (status.phase in {Phase.STEPPING, Phase.HALTED})
        assert not in_step or status.share == PLAN.steps[(status.step or 0) - 1].share_basis_points
        assert not in_step or what.candidate_ready or status == now
        assert status.has_stable or status.phase in {Phase.EMPTY, Phase.STAGED}
        again = next_status(PLAN, status, replace(what, lease_lapsed=False))
        if what.stable_ready and what.candidate_ready and what.asked is not Ask.STAGE:
            assert again.status == status, "a repeated command changes nothing"
        left = next_status(PLAN, status, Observation(asked=Ask.ROLL_BACK)).status
        assert left.phase in {Phase.EMPTY, Phase.SERVING}, "every state can be left"
        now = status


@given(observations)
def test_while_stepping_users_never_stay_with_a_candidate_that_does_not_answer(
    what: Observation,
) -> None:
    found = next_status(PLAN, STEP_1, replace(what, candidate_ready=False)).status
    assert found.share == 0
