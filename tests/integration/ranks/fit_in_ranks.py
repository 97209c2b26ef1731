"""`fit_in_ranks.py FOLDER SETTINGS`: one rank of a small fit; writes FOLDER/ended-RANK.json with the weights' digest.

SETTINGS is JSON: dropout, max_epochs, users, checkpoint_seconds, length_buckets, typed (0 or 1). torchrun's variables say which rank
of how many.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from tasks.contracts.errors import HeadraceError
from tasks.contracts.ranks import ALONE
from tasks.models.transformer import Transformer
from tasks.training.fit import Fit, FitSettings
from tasks.training.ranks import joined_ranks
from tests.unit.training.conftest import ITEMS, shop


def digest(model: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def main(folder: Path, told: dict[str, float]) -> int:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    interactions = shop(int(told["users"]))
    typed = bool(told["typed"])
    settings = FitSettings(
        max_epochs=int(told["max_epochs"]),
        patience=int(told["max_epochs"]),
        batch_windows=15,  # shares of two and of four ranks differ in size
        learning_rate=1e-2,
        negatives=8,
        weight_decay=0.01,
        max_length=16,
        seed=5,
        threads=1,
        length_buckets=int(told["length_buckets"]),
        next_type_weight=1.0,
        unknown_types=0.5,
    )
    several = os.environ["WORLD_SIZE"] != "1"
    with joined_ranks() if several else nullcontext(ALONE) as ranks:
        torch.manual_seed(settings.seed)
        network = Transformer(
            ITEMS,
            steps=6,
            width=16,
            layers=2,
            heads=2,
            dropout=float(told["dropout"]),
            event_types=typed,
        )
        fit = Fit(
            network,
            interactions,
            interactions.examples(1),
            settings,
            ranks=ranks,
            checkpoint_seconds=told["checkpoint_seconds"],
        )
        (folder / f"began-{ranks.rank}").touch()
        try:
            fit.run(folder / "checkpoints", lambda sentence, _: print(sentence, flush=True))
        except HeadraceError as error:
            print(error, flush=True)
            os._exit(int(error.exit_code))  # the others are not waited for
        ended = {
            "digest": digest(network),
            "curve": [vars(point) for point in fit.curve],
            "resumed_from": fit.resumed_from,
        }
        (folder / f"ended-{ranks.rank}.json").write_text(json.dumps(ended))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
