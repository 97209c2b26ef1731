"""How large the suite runs: short in `make trials`, long and crowd in `make faults`."""

from __future__ import annotations

import os
from dataclasses import dataclass

VARIABLE = "HEADRACE_FAULTS"


@dataclass(frozen=True, kw_only=True)
class Form:
    """Sizes of one run of the suite."""

    name: str
    users: int
    days: int
    aisles: int
    items_per_aisle: int
    requests: int  # through the router, for each serving fault, at least
    resamples: int
    ship_margin: float  # in hit@10: with few users an equal candidate is not told from a worse one


SHORT = Form(
    name="short",
    users=150,
    days=50,
    aisles=4,
    items_per_aisle=24,
    requests=300,
    resamples=10,
    ship_margin=0.1,
)
LONG = Form(
    name="long",
    users=450,
    days=60,
    aisles=6,
    items_per_aisle=24,
    requests=2000,
    resamples=10,
    ship_margin=0.05,
)
CROWD = Form(  # so many that equal and worse by the margin can be told apart
    name="crowd",
    users=2500,
    days=60,
    aisles=12,
    items_per_aisle=25,
    requests=2000,
    resamples=200,
    ship_margin=0.02,
)


def chosen_form() -> Form:
    """Return the form that the environment asks for; an unknown one is refused."""
    forms = {form.name: form for form in (SHORT, LONG, CROWD)}
    name = os.environ.get(VARIABLE, SHORT.name)
    if name not in forms:
        message = f"{VARIABLE}: expected one of {sorted(forms)}, found {name!r}"
        raise ValueError(message)
    return forms[name]
