"""Fit the baselines that stand beside every model: seconds, no gradient."""

from __future__ import annotations

import numpy as np
import torch

from tasks.models.interactions import Interactions
from tasks.models.markov import Markov, nearest, transition_counts
from tasks.models.personal_frequency import PersonalFrequency
from tasks.models.popularity import Popularity
from tasks.models.registry import Arguments
from tasks.training.fit import train_shares
from tasks.training.recipes import MarkovSettings

TIE_BREAK = 1e-4  # below every decayed count that matters


def fit_popularity(interactions: Interactions) -> tuple[Popularity, Arguments]:
    """Return popularity over the train period and the arguments to build it."""
    model = Popularity(interactions.num_items)
    train = interactions.items[interactions.period == 0]
    counts = np.bincount(train, minlength=interactions.num_items + 1)
    model.log_counts.copy_(torch.from_numpy(np.log1p(counts).astype(np.float32)))
    return model.eval(), {"num_items": interactions.num_items}


def fit_personal_frequency(
    interactions: Interactions, decay: float
) -> tuple[PersonalFrequency, Arguments]:
    """Return personal frequency with `decay` per step and the arguments to build it."""
    model = PersonalFrequency(interactions.num_items)
    shares = train_shares(interactions)
    model.decay.fill_(decay)
    model.tie_break.copy_(shares / shares.max().clamp(min=1e-9) * TIE_BREAK)
    return model.eval(), {"num_items": interactions.num_items}


def fit_markov(interactions: Interactions, settings: MarkovSettings) -> tuple[Markov, Arguments]:
    """Return the windowed Markov chain and the arguments to build it."""
    num_items = interactions.num_items
    model = Markov(num_items, settings.neighbours, settings.last_items)
    counts = transition_counts(interactions, settings.window)
    shares = train_shares(interactions)
    train = interactions.items[interactions.period == 0]
    popularity = np.bincount(train, minlength=num_items + 1).astype(np.float64)
    columns, values = nearest(counts, popularity, settings.neighbours)
    model.neighbours.copy_(torch.from_numpy(columns))
    model.weights.copy_(torch.from_numpy(values))
    model.decay.fill_(settings.decay)
    model.tie_break.copy_(shares / shares.max().clamp(min=1e-9) * float(values.max()) * TIE_BREAK)
    arguments = {
        "num_items": num_items,
        "neighbours": settings.neighbours,
        "last_items": settings.last_items,
    }
    return model.eval(), arguments
