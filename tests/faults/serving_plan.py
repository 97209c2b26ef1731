"""The traffic plan under which serving faults are planted: as many requests as the form wants."""

from __future__ import annotations

from dataclasses import replace

from tasks.contracts.requests import TrafficPlan, TrafficStep
from tests.faults.form import Form

FIRST_SHARE = 0.1  # of the requests: the step in which nothing is wrong yet
STAGING_BOUND_MS = 20.0
SHIP_BOUND_MS = 2000.0  # where answers are judged, a busy machine is not the question


def _step(share: int, judgement: str, replay: float, users: int = 10) -> TrafficStep:
    return TrafficStep(
        share_basis_points=share,
        judgement=judgement,  # type: ignore[arg-type]
        bake_seconds=600,
        min_users=users,
        replay_share=replay,
    )


def staging_plan(form: Form) -> TrafficPlan:
    """Return a plan whose bound lies below ten times what a quick model takes."""
    plan = guardrail_plan(form, form.requests)
    return replace(plan, min_latency_bound_ms=STAGING_BOUND_MS)


def guardrail_plan(form: Form, requests: int) -> TrafficPlan:
    """Return a plan whose second step asks what the fault needs, with two fifths of the users."""
    share = _replay_share(form, requests)
    steps = (_first(), _step(4000, "guardrails", share), _step(5000, "ship", 0.0))
    return TrafficPlan(name="guardrails", steps=steps)


def ship_plan(form: Form, requests: int) -> TrafficPlan:
    """Return a plan whose second step decides to ship."""
    steps = (_first(), _step(5000, "ship", _replay_share(form, requests)))
    return TrafficPlan(
        name="ship", steps=steps, margin=form.ship_margin, min_latency_bound_ms=SHIP_BOUND_MS
    )


def _first() -> TrafficStep:
    return _step(1000, "guardrails", FIRST_SHARE, users=2)


def _replay_share(form: Form, requests: int) -> float:
    expected = form.users * form.days * 0.2 * 0.6  # canary days times the chance of a visit
    return min(1 - FIRST_SHARE, 1.1 * requests / expected)
