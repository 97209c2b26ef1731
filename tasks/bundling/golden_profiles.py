"""Golden requests for profiles, and torch's answers: `profile/golden.npz` of a compressed model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.models.npz_files import arrays_of
from tasks.models.profile_definition import ProfileRequests

PROFILE_FOLDER = "profile"
GOLDEN_PROFILES_FILE = "golden.npz"
_FORMAT = "golden_profiles/1"
_INPUTS = ("items", "steps_ago", "event_types", "days_ago")


@dataclass(frozen=True, kw_only=True)
class GoldenProfiles:
    """R requests and torch's outputs by name, each [R] or [R, n]."""

    requests: ProfileRequests
    answers: Mapping[str, NDArray[Any]]

    def save(self, path: Path) -> None:
        """Write an uncompressed npz: equal golden profiles give equal bytes."""
        arrays: dict[str, Any] = {"format": np.asarray(_FORMAT), **self.requests.given(_INPUTS)}
        arrays["outputs"] = np.asarray([*self.answers], np.str_)
        arrays |= {f"{name}__answer": answer for name, answer in self.answers.items()}
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> GoldenProfiles:
        """Read what `save` wrote."""
        with arrays_of(path, _FORMAT) as arrays:
            requests = ProfileRequests(**{name: arrays[name] for name in _INPUTS})
            answers = {str(name): arrays[f"{name}__answer"] for name in arrays["outputs"]}
        return cls(requests=requests, answers=answers)
