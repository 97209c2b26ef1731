"""Networks written in Keras 3: trained on its torch backend, served through its TensorFlow one.

`keras` takes its backend from KERAS_BACKEND when it is first imported: `use_backend` comes first.
"""

from __future__ import annotations

import os
import sys
from typing import Literal

from tasks.contracts.errors import BadRequestError


def use_backend(name: Literal["torch", "tensorflow"]) -> None:
    """Make Keras compute with `name` in this process; refused where it computes otherwise already."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = name
    import keras  # noqa: PLC0415  after its backend is chosen

    found = keras.backend.backend()
    if found != name:
        message = (
            f"keras: expected the backend {name}, found {found} in use already; next step: do it "
            "in a process of its own, as a stage is"
        )
        raise BadRequestError(message)
