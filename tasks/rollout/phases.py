"""Where a model's rollout stands, what may be asked of it, and what a judge may say."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Phases of one model; `.meaning` says each in one line."""

    EMPTY = "empty"
    SERVING = "serving"
    STAGED = "staged"
    STEPPING = "stepping"
    PAUSED = "paused"
    HALTED = "halted"

    @property
    def meaning(self) -> str:
        """Return one line for people."""
        return _MEANINGS[self]


_MEANINGS = {
    Phase.EMPTY: "nothing was ever released: the router answers 503",
    Phase.SERVING: "stable takes every request; no release is in progress",
    Phase.STAGED: "a candidate is loaded in a slot of its own and takes no request",
    Phase.STEPPING: "the candidate takes its share as long as the lease is renewed",
    Phase.PAUSED: "the candidate takes nothing; the step can be resumed or rolled back",
    Phase.HALTED: "stable is broken, the candidate takes everything; a person must decide",
}


class Pause(StrEnum):
    """Who or what paused a step: that decides who may go on with it."""

    LEASE = "lease"  # nobody renewed it: the step or its next renewal goes on
    SLOT = "slot"  # the candidate's slot did not answer: the step or a person goes on
    PERSON = "person"  # only a person's resume ends it
    VERDICT = "verdict"  # cut or judged unfavourably: nothing goes on


class Ask(StrEnum):
    """What a task, the keeper or a person asks of a rollout."""

    NOTHING = "nothing"
    STAGE = "stage"
    BEGIN_STEP = "begin_step"
    RECORD_VERDICT = "record_verdict"
    RENEW = "renew"
    PAUSE = "pause"
    CUT = "cut"  # the keeper found harm: like a pause, and a verdict that nothing overrides
    RESUME = "resume"
    HOTFIX = "hotfix"  # another release of stable, while the candidate keeps its users
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


class Decision(StrEnum):
    """What a judge says after a step."""

    PROCEED = "proceed"  # the guardrails hold: take the next step
    SHIP = "ship"  # the outcome passed the plan's test: promote
    KEEP_CHAMPION = "keep_champion"  # no verdict, or not good enough
    ROLL_BACK = "roll_back"  # harm was found

    @property
    def favourable(self) -> bool:
        """Return whether the rollout may go on."""
        return self in {Decision.PROCEED, Decision.SHIP}
