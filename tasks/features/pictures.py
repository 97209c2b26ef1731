"""Validated pictures -> a feature set of pictures: arrays of one size with labels and periods."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq

from tasks.contracts.columns import PERIODS
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import check_format, parse_object
from tasks.models.pictures import Pictures


def build_pictures(folder: Path) -> Pictures:
    """Return the pictures of one payload of validated pictures, training first, in its order."""
    profile = parse_object((folder / "profile.json").read_bytes(), "profile.json")
    check_format(profile, "pictures_profile", 1, "profile.json")
    names = tuple(str(name) for name in cast("list[str]", profile["class_names"]))
    table = pq.read_table(folder / "pictures.parquet", columns=["class", "period", "image"])
    size = (int(cast("int", profile["height"])), int(cast("int", profile["width"])))
    images = b"".join(table["image"].to_pylist())
    if len(images) != table.num_rows * size[0] * size[1]:
        message = (
            f"pictures.parquet: expected {table.num_rows} pictures of {size[0]} x {size[1]} bytes,"
            f" found {len(images)} bytes"
        )
        raise BadRequestError(message)
    place = {name: index for index, name in enumerate(names)}
    periods = {name: index for index, name in enumerate(PERIODS)}
    return Pictures(
        images=np.frombuffer(images, np.uint8).reshape(table.num_rows, *size),
        labels=np.asarray([place[name] for name in table["class"].to_pylist()], np.int64),
        period=np.asarray([periods[name] for name in table["period"].to_pylist()], np.int8),
        class_names=names,
    )
