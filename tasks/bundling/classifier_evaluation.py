"""Ask SavedModels for the classes of pictures, and compare with the classes that they have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.bundling.served_model import LoadedModel
from tasks.contracts.stage_io import SayProgress
from tasks.models.pictures import Pictures

BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Classified:
    """What every model answers to the same pictures."""

    rows: NDArray[np.int64]  # [R] of the feature set
    target: NDArray[np.str_]  # [R] the class of each
    answers: dict[str, NDArray[np.str_]]  # model -> the class that it scores highest [R]

    def right(self, model: str) -> NDArray[np.float64]:
        """Return 1 or 0 [R]."""
        return (self.answers[model] == self.target).astype(np.float64)


def classify(
    bundle: Path,
    champion: Path | None,
    pictures: Pictures,
    rows: NDArray[np.int64],
    progress: SayProgress,
) -> Classified:
    """Ask candidate, champion (if any) and the candidate's baselines; classes are names."""
    folders = {"candidate": bundle / "model"}
    folders |= {} if champion is None else {"champion": champion / "model"}
    baselines = sorted(path for path in (bundle / "baselines").glob("*") if path.is_dir())
    folders |= {path.name: path for path in baselines}
    answers = {}
    for place, (name, folder) in enumerate(folders.items()):
        progress(f"asking {name}", place / len(folders))
        with LoadedModel(folder) as model:
            answers[name] = _first_classes(model, pictures.images[rows])
    target = np.asarray(pictures.class_names)[pictures.labels[rows]]
    return Classified(rows=rows, target=target, answers=answers)


def _first_classes(model: LoadedModel, images: NDArray[np.uint8]) -> NDArray[np.str_]:
    starts = range(0, len(images), BATCH)
    found = [model.ask("serving_default", {"images": images[s : s + BATCH]}) for s in starts]
    first = np.concatenate([answer["classes"][:, 0] for answer in found])
    return np.asarray([name.decode() for name in first])
