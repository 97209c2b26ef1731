"""Sets of labelled product pictures: where their files lie, how they are read and cut in periods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, pretty_json
from tasks.events.idx_files import read_idx
from tasks.events.sources import DATA_VARIABLE, Source, data_source, digest

PICTURES_FILE = "pictures.parquet"
PROFILE_FILE = "profile.json"
PICTURE_FORMAT = "pictures_profile/1"


@dataclass(frozen=True, kw_only=True)
class PicturePeriods:
    """The set's own test pictures are the gate period; of its training pictures the last are kept.

    Of each class, the last `canary_per_class` are asked in canary traffic, and those before them
    are selected on: every choice is made there, none on the test pictures.
    """

    select_per_class: int
    canary_per_class: int

    def of_training(self, labels: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return the period [N] of each training picture, given its class."""
        period = np.full(len(labels), Period.TRAIN, np.int8)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            kept = self.select_per_class + self.canary_per_class
            if len(rows) <= kept:
                message = (
                    f"pictures: expected more than {kept} training pictures of class {label}, "
                    f"found {len(rows)}"
                )
                raise BadRequestError(message)
            period[rows[-kept:]] = Period.SELECT
            period[rows[len(rows) - self.canary_per_class :]] = Period.CANARY
        return period


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """A set in MNIST's layout: images and labels to train on, and such to test on."""

    folder: str  # below $HEADRACE_DATA
    installed: Path  # where its Debian package puts it
    how_to_get: str
    class_names: tuple[str, ...]
    periods: PicturePeriods
    files: tuple[str, ...] = (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    )


PICTURE_SETS: MappingProxyType[str, PictureSet] = MappingProxyType(
    {
        "fashion-mnist": PictureSet(
            folder="fashion-mnist",
            installed=Path("/usr/share/datasets/fashion-mnist"),
            how_to_get="or apt-get install dataset-fashion-mnist",
            class_names=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            periods=PicturePeriods(select_per_class=300, canary_per_class=200),
        )
    }
)


@dataclass(frozen=True, kw_only=True)
class PicturePlan:
    """What one ingest of pictures reads and how."""

    dataset: str
    known: PictureSet
    sources: tuple[Source, ...]

    def to_config(self) -> dict[str, Json]:
        """Return what decides the payload: bytes of the sources by digest, not by place."""
        return {
            "dataset": self.dataset,
            "class_names": list(self.known.class_names),
            "periods": asdict(self.known.periods),
            "sources": [digest(source).to_json() for source in self.sources],
        }


def plan_pictures(dataset: str, environ: Mapping[str, str]) -> PicturePlan:
    """Find the files of a set: below $HEADRACE_DATA, else where its Debian package puts them."""
    known = PICTURE_SETS[dataset]
    sources = tuple(_source(known, file, environ) for file in known.files)
    return PicturePlan(dataset=dataset, known=known, sources=sources)


def _source(known: PictureSet, file: str, environ: Mapping[str, str]) -> Source:
    names = (f"{known.folder}/{file}", f"{known.folder}/{file.removesuffix('.gz')}")
    folder, installed = environ.get(DATA_VARIABLE), known.installed / file
    below = any(folder and Path(folder, name).is_file() for name in names)
    if installed.is_file() and not below:
        return Source(name=file, url=str(installed))
    return data_source(environ, names, known.how_to_get)


def land_pictures(plan: PicturePlan, paths: list[Path], out: Path) -> dict[str, Json]:
    """Write `pictures.parquet` and `profile.json` below `out` and return the profile."""
    train = _labelled(plan.known, paths[0], paths[1])
    test = _labelled(plan.known, paths[2], paths[3])
    if train[0].shape[1:] != test[0].shape[1:]:
        message = (
            f"pictures: expected test pictures of the training pictures' size "
            f"{train[0].shape[1:]}, found {test[0].shape[1:]}"
        )
        raise BadRequestError(message)
    images, labels = np.concatenate([train[0], test[0]]), np.concatenate([train[1], test[1]])
    tested = np.full(len(test[1]), Period.GATE, np.int8)
    period = np.concatenate([plan.known.periods.of_training(train[1]), tested])
    names = [f"train-{n:05d}" for n in range(len(train[1]))]
    names += [f"test-{n:05d}" for n in range(len(test[1]))]
    _write_table(out, names, images, (labels, period), plan.known.class_names)
    profile = _profile(plan, images, labels, period)
    (out / PROFILE_FILE).write_text(pretty_json(profile), encoding="utf-8")
    return profile


def _labelled(
    known: PictureSet, images: Path, labels: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pictures, classes = read_idx(images, 3), read_idx(labels, 1).astype(np.int64)
    if len(pictures) != len(classes) or classes.max(initial=0) >= len(known.class_names):
        message = (
            f"{labels.name}: expected {len(pictures)} labels of 0..{len(known.class_names) - 1}, "
            f"as {images.name} has pictures, found {len(classes)} up to {classes.max(initial=0)}"
        )
        raise BadRequestError(message)
    return pictures, classes


def _write_table(
    out: Path,
    names: list[str],
    images: NDArray[np.uint8],
    labels_and_periods: tuple[NDArray[np.int64], NDArray[np.int8]],
    class_names: tuple[str, ...],
) -> None:
    labels, period = labels_and_periods
    size = images.shape[1] * images.shape[2]
    flat = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(size), len(images), [None, pa.py_buffer(np.ascontiguousarray(images))]
    )
    periods = np.asarray([one.label for one in Period])
    table = {
        "picture_id": pa.array(names, pa.string()),
        "class": pa.array(np.asarray(class_names)[labels].tolist(), pa.string()),
        "period": pa.array(periods[period].tolist(), pa.string()),
        "image": flat,
    }
    pq.write_table(pa.table(table), out / PICTURES_FILE, compression="zstd")


def _profile(
    plan: PicturePlan,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    period: NDArray[np.int8],
) -> dict[str, Json]:
    classes = len(plan.known.class_names)
    counts: dict[str, Json] = {}
    for one in Period:
        found = np.bincount(labels[period == one], minlength=classes)
        named = zip(plan.known.class_names, found, strict=True)
        counts[one.label] = cast("Json", {name: int(count) for name, count in named})
    return {
        "format": PICTURE_FORMAT,
        "dataset": plan.dataset,
        "pictures": len(images),
        "height": int(images.shape[1]),
        "width": int(images.shape[2]),
        "class_names": list(plan.known.class_names),
        "by_period_and_class": counts,
        "sources": [digest(source).to_json() for source in plan.sources],
    }
