"""Arrays on disk with a format: how every `.npz` of ours is opened."""

from __future__ import annotations

import errno
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from tasks.contracts.errors import BadRequestError, bounded

FORMAT = "format"
# What np.load and the archive's members raise over bytes that are none, are torn or were changed.
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError),
    *(SyntaxError, TokenError),  # of an array's head, which numpy parses as Python
)


@contextmanager
def arrays_of(path: Path, *wanted: str) -> Iterator[Mapping[str, Any]]:
    """Yield the arrays of an npz by name; refuse other formats, bytes that are no npz, a missing array.

    A file that is not there is the OSError that it is.
    """
    try:
        opened = np.load(path, allow_pickle=False)
        if isinstance(opened, np.ndarray):
            raise _damaged(path, wanted, "one array, a npy")
        with opened as arrays:
            found = str(arrays[FORMAT]) if FORMAT in arrays else None
            if found not in wanted:
                message = f"{path.name}: expected format {' or '.join(wanted)}, found {bounded(repr(found), 80)}"
                raise BadRequestError(message)
            yield arrays
    except DAMAGED as error:
        raise _damaged(path, wanted, str(error) or type(error).__name__) from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise _damaged(path, wanted, "a place before its begin") from error


def _damaged(path: Path, wanted: tuple[str, ...], found: str) -> BadRequestError:
    message = f"{path.name}: expected a complete {' or '.join(wanted)}, found: {bounded(found, 200)}; make it again"
    return BadRequestError(message)
