"""Measurements that gates of recommenders and of classifiers share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tasks.contracts.json_types import Json
from tasks.gates.checks import Measurement
from tasks.gates.records import number
from tasks.gates.wording import in_words


class CompressionLimits(Protocol):
    """Bounds on bytes, of whatever kind of model."""

    @property
    def compression(self) -> str:
        """Return the recipe."""
        ...

    @property
    def max_ratio(self) -> float:
        """Return the largest share of the fp32 bytes."""
        ...

    @property
    def min_fp32_bytes(self) -> int:
        """Return the fp32 bytes below which there is nothing worth saving."""
        ...


def none_of(
    name: str, count: float, expected: str, *, where: str = "", why: str = ""
) -> Measurement:
    """Expect that a count is 0."""
    return Measurement(
        name=name,
        value=float(count),
        maximum=0,
        unit="count",
        expected=expected,
        where=where,
        why=why,
    )


def allowed_ratio(fp32_bytes: float | None, wanted: CompressionLimits) -> float:
    """Return the largest share of the fp32 bytes; small models have little to save."""
    small = (fp32_bytes or 0.0) < wanted.min_fp32_bytes
    return 1.0 if wanted.compression == "none" or small else wanted.max_ratio


def bytes_on_disk(
    model: Path, bundle: dict[str, Json], wanted: CompressionLimits
) -> list[Measurement]:
    """Expect of a SavedModel the bytes that its bundle tells, and few of the fp32 one's.

    A recommender's profiles are as large in both, and are left out of the share.
    """
    files = (model / "saved_model.pb", *(model / "variables").glob("*"))
    size = sum(file.stat().st_size for file in files if file.is_file())
    told, fp32 = number(bundle, "bytes"), number(bundle, "fp32_bytes")
    most = allowed_ratio(fp32, wanted)
    profiles = number(bundle, "profile_bytes") or 0
    network = size - profiles
    apart = ", both without profiles" if profiles else ""
    return [
        Measurement(
            name="bytes of the model",
            value=size,
            minimum=told,
            maximum=told,
            unit="bytes",
            expected=f"{told or 0:,.0f} bytes, as the bundle says",
        ),
        Measurement(
            name="bytes on disk",
            value=None if not fp32 else network / fp32,
            maximum=most,
            unit="share",
            expected=f"at most {in_words(most, 'share')} of the fp32 SavedModel",
            where=f"({in_words(network, 'bytes')} of {in_words(fp32, 'bytes')}{apart})",
        ),
    ]


def finite_losses(losses: Sequence[float | None]) -> Measurement:
    """Expect a number as the loss of every epoch."""
    return none_of("losses", sum(loss is None for loss in losses), "finite numbers")


def loss_rebound(known: Sequence[float], most: float) -> Measurement:
    """Expect a last loss near the lowest one."""
    return Measurement(
        name="last loss over the lowest",
        value=known[-1] / min(known),
        maximum=most,
        unit="ratio",
        why="Training diverged at its end: lower the learning rate.",
    )
