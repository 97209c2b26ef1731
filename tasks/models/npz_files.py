"""Arrays on disk with a format: how every `.npz` of ours is opened."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tasks.contracts.errors import BadRequestError, bounded

FORMAT = "format"


@contextmanager
def arrays_of(path: Path, *wanted: str) -> Iterator[Mapping[str, Any]]:
    """Yield the arrays of an npz by name; refuse other formats, bytes that are no npz, a missing array.

    A file that is not there is the OSError that it is.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = str(arrays[FORMAT]) if FORMAT in arrays else None
            if found not in wanted:
                message = f"{path.name}: expected format {' or '.join(wanted)}, found {bounded(repr(found), 80)}"
                raise BadRequestError(message)
            yield arrays
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        reason = bounded(str(error) or type(error).__name__, 200)
        message = f"{path.name}: expected a complete {' or '.join(wanted)}, found: {reason}; make it again"
        raise BadRequestError(message) from error
