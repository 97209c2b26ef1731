"""Gates of pictures before training: classes in every period, nothing blank, nothing learnt by heart."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from tasks.contracts.columns import PERIODS, Period
from tasks.contracts.gate_reports import Figure, Series
from tasks.gates.checks import (
    Batch,
    Measurement,
    Payload,
    Suite,
    joined,
    measured,
    not_null,
    one_of,
    unique,
)
from tasks.gates.picture_bounds import PictureBounds, PictureFeatureBounds
from tasks.gates.records import number, read_record
from tasks.gates.wording import in_words
from tasks.models.pictures import Pictures


def validated(payload: Payload, wanted: PictureBounds) -> Suite:
    """Return what is expected of validated pictures."""
    profile = read_record(payload.path / "profile.json", "pictures_profile")
    frame = pq.read_table(payload.path / "pictures.parquet").to_pandas()
    names = [str(name) for name in profile["class_names"] or []]  # type: ignore[union-attr]
    size = int((number(profile, "height") or 0) * (number(profile, "width") or 0))
    rows = Batch(
        name="pictures",
        frame=frame[["picture_id", "class", "period"]],
        checks=(
            not_null("picture_id"),
            unique("picture_id"),
            one_of("class", names),
            one_of("period", PERIODS),
        ),
        row_noun="pictures",
        example="picture_id",
    )
    counts = _counts(frame, names)
    measurements = [
        Measurement(name="classes", value=len(names), minimum=wanted.min_classes, unit="count"),
        *_rarest(counts, wanted.min_each),
        *_bytes(frame, size, wanted),
    ]
    return joined(
        Suite(batches=(rows, measured("amount", measurements))),
        _shown(counts, len(frame), f"{profile['height']} x {profile['width']}"),
    )


def _counts(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return how many pictures each class (row) has in each period (column)."""
    table = pd.crosstab(frame["class"], frame["period"])
    return table.reindex(index=names, columns=list(PERIODS), fill_value=0)


def _rarest(counts: pd.DataFrame, least: int) -> list[Measurement]:
    found = []
    for period in counts:
        column = counts[period]
        rarest = str(column.idxmin()) if len(column) else ""
        found.append(
            Measurement(
                name=f"rarest class in {period}",
                value=int(column.min()) if len(column) else None,
                minimum=least,
                unit="count",
                expected=f"at least {least} pictures of every class",
                where=f"({rarest})",
                why="A class with hardly a picture is neither learnt nor judged.",
            )
        )
    return found


def _bytes(frame: pd.DataFrame, size: int, wanted: PictureBounds) -> list[Measurement]:
    images = frame["image"]
    odd = int((images.map(len) != size).sum())
    blank = images.map(lambda image: len(set(image)) < 2)
    digests = images.map(lambda image: hashlib.sha256(image).digest())
    trained = frame["period"] == Period.TRAIN.label
    copied = digests[~trained].isin(set(digests[trained]))
    first = frame.loc[copied.index[copied], "picture_id"].head(1).tolist()
    return [
        Measurement(
            name="pictures of another size",
            value=odd,
            maximum=0,
            unit="count",
            expected=f"{size:,} bytes each, one a pixel",
        ),
        Measurement(
            name="blank pictures",
            value=float(blank.mean()) if len(blank) else None,
            maximum=wanted.max_blank_share,
            unit="share",
            why="They show one grey only: a picture was lost on its way.",
        ),
        Measurement(
            name="later pictures that training holds too",
            value=float(copied.mean()) if len(copied) else None,
            maximum=wanted.max_copied_share,
            unit="share",
            where=f"(e.g. {first[0]})" if first else "",
            why="Their class is known by heart: every number after that would be too good.",
        ),
    ]


def _shown(counts: pd.DataFrame, pictures: int, size: str) -> Suite:
    figure = Figure(
        title="Pictures of each class, by period",
        shape="bars",
        labels=tuple(str(name) for name in counts.index),
        series=tuple(
            Series(name=str(period), values=tuple(float(n) for n in counts[period]))
            for period in counts
        ),
    )
    shown = {
        "pictures": in_words(pictures, "count"),
        "pixels": size,
        "classes": in_words(len(counts), "count"),
    }
    return Suite(batches=(), figures=(figure,), key_figures=shown)


def features(payload: Payload, wanted: PictureFeatureBounds) -> Suite:
    """Return what is expected of a feature set of pictures."""
    pictures = Pictures.load(payload.path)
    table = np.zeros((len(pictures.class_names), len(PERIODS)), np.int64)
    known = (pictures.period >= 0) & (pictures.period < len(PERIODS))
    np.add.at(table, (pictures.labels[known], pictures.period[known]), 1)
    counts = pd.DataFrame(table, index=list(pictures.class_names), columns=list(PERIODS))
    greys = {
        period.label: float(pictures.images[pictures.rows(period)].mean())
        for period in Period
        if len(pictures.rows(period))
    }
    trained = greys.get(Period.TRAIN.label)
    measurements = [
        Measurement(
            name="unknown periods",
            value=int((~known).sum()),
            maximum=0,
            unit="count",
            expected=f"periods {', '.join(PERIODS)}",
        ),
        *_rarest(counts, wanted.min_each),
    ]
    for label in PERIODS[1:]:
        here = greys.get(label)
        away = None if trained is None or here is None else abs(here - trained)
        measurements.append(
            Measurement(
                name=f"mean grey of {label} against train",
                value=away,
                maximum=wanted.max_grey_difference,
                expected=f"a difference of at most {wanted.max_grey_difference:g} of 255",
                why="Later pictures look otherwise: another camera, scale or inversion.",
            )
        )
    size = " x ".join(str(axis) for axis in pictures.images.shape[1:])
    return joined(
        Suite(batches=(measured("periods", measurements),)),
        _shown(counts, len(pictures.labels), size),
    )
