"""Fit the baselines that stand beside every model: seconds, no gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from tasks.models.co_occurrence import (
    CosineForm,
    cosine_weights,
    ease_neighbours,
    taken_items,
    users_in_common,
)
from tasks.models.ials import Ials, whitened
from tasks.models.interactions import Interactions
from tasks.models.item_neighbours import ItemNeighbours, Neighbours, largest_of_rows
from tasks.models.markov import nearest, transition_counts
from tasks.models.personal_frequency import PersonalFrequency
from tasks.models.popularity import Popularity
from tasks.models.registry import Arguments
from tasks.training.fit import train_shares
from tasks.training.recipes import EaseSettings, IalsSettings, ItemKnnSettings, MarkovSettings

TIE_BREAK = 1e-4  # below every decayed count that matters
LAST_STEP_ONLY = 1e-9  # decay per step of a chain of order 1


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
    model.decay.fill_(decay)
    model.tie_break.copy_(_tie_break(interactions, 1.0))
    return model.eval(), {"num_items": interactions.num_items}


def fit_markov(
    interactions: Interactions, settings: MarkovSettings
) -> tuple[ItemNeighbours, Arguments]:
    """Return the windowed Markov chain and the arguments to build it."""
    counts = transition_counts(interactions, settings.window)
    train = interactions.items[interactions.period == 0]
    popularity = np.bincount(train, minlength=interactions.num_items + 1).astype(np.float64)
    found = nearest(counts, popularity, settings.neighbours, settings.popularity_power)
    return _neighbours(interactions, found, settings.last_items, settings.decay)


def fit_first_order_markov(
    interactions: Interactions, settings: MarkovSettings
) -> tuple[ItemNeighbours, Arguments]:
    """Return the plain chain: counts of pairs one step apart, asked about the last step only."""
    plain = replace(settings, window=1, decay=LAST_STEP_ONLY, popularity_power=0.0)
    return fit_markov(interactions, plain)


def fit_ease(
    interactions: Interactions, settings: EaseSettings
) -> tuple[ItemNeighbours, Arguments]:
    """Return EASE's largest weights over the last items and the arguments to build it."""
    common = users_in_common(interactions, settings.max_items)
    found = ease_neighbours(common, l2=settings.l2, neighbours=settings.neighbours)
    return _neighbours(interactions, found, settings.last_items, settings.decay)


def fit_item_knn(
    interactions: Interactions, settings: ItemKnnSettings
) -> tuple[ItemNeighbours, Arguments]:
    """Return the nearest items by users in common and the arguments to build the model."""
    form = CosineForm(
        power=settings.power, shrinkage=settings.shrinkage, sharpness=settings.sharpness
    )
    weights = cosine_weights(users_in_common(interactions, settings.max_items), form)
    found = largest_of_rows(weights, settings.neighbours)
    return _neighbours(interactions, found, settings.last_items, settings.decay)


def fit_ials(interactions: Interactions, settings: IalsSettings) -> tuple[Ials, Arguments]:
    """Return iALS by the library `implicit`, its factors whitened, and the arguments to build it."""
    from implicit.cpu.als import AlternatingLeastSquares  # noqa: PLC0415  where only networks are trained it may lack

    arguments = {
        "num_items": interactions.num_items,
        "width": settings.width,
        "last_items": settings.last_items,
        "iterations": settings.request_iterations,
    }
    with threadpool_limits(1, "blas"):  # it warns of more, and would be slow
        solver = AlternatingLeastSquares(
            factors=settings.width,
            regularization=settings.l2,
            alpha=settings.alpha,
            iterations=settings.iterations,
            random_state=settings.seed,
            num_threads=1,  # else equal seeds give other factors
        )
        solver.fit(taken_items(interactions), show_progress=False)
    model = Ials(**arguments)
    model.factors.copy_(whitened(torch.from_numpy(np.asarray(solver.item_factors)), settings.l2))
    model.decay.fill_(settings.decay)
    model.confidence.fill_(settings.alpha)
    model.tie_break.copy_(_tie_break(interactions, 1.0))
    return model.eval(), arguments


def _neighbours(
    interactions: Interactions, found: Neighbours, last_items: int, decay: float
) -> tuple[ItemNeighbours, Arguments]:
    """Return the model of the neighbours; popularity breaks ties."""
    columns, values = found
    arguments = {
        "num_items": interactions.num_items,
        "neighbours": columns.shape[1],
        "last_items": last_items,
    }
    model = ItemNeighbours(**arguments)
    model.neighbours.copy_(torch.from_numpy(columns))
    model.weights.copy_(torch.from_numpy(values))
    model.decay.fill_(decay)
    model.tie_break.copy_(_tie_break(interactions, float(values.max())))
    return model.eval(), arguments


def _tie_break(interactions: Interactions, largest: float) -> torch.Tensor:
    """Return [I + 1]: popularity, far below `largest`, the score of a near item."""
    shares = train_shares(interactions)
    return shares / shares.max().clamp(min=1e-9) * largest * TIE_BREAK
