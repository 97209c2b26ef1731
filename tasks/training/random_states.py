"""Every source of randomness of a process as one value, so that a killed fit draws what it would have."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

_PYTHON_STATE = 3  # the format of random.getstate since Python 3.2


def seed_all(seed: int) -> None:
    """Start Python's, NumPy's and torch's global generators from one seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  the global generator that libraries draw from
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """Return the states of all global generators, as plain values and tensors."""
    version, words, gauss_next = random.getstate()
    assert version == _PYTHON_STATE  # noqa: S101  a newer Python would need another reader
    name, keys, place, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    states: dict[str, Any] = {
        "python": {"words": list(words), "gauss_next": gauss_next},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "place": int(place),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Put all global generators where `random_states` found them."""
    python, numpy = states["python"], states["numpy"]
    random.setstate((_PYTHON_STATE, tuple(python["words"]), python["gauss_next"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(  # noqa: NPY002
        (numpy["name"], keys, numpy["place"], numpy["has_gauss"], numpy["cached"])
    )
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
