"""What decides a fit's weights, and on what it runs: a checkpoint of another fit is refused, of another machine told of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json
from tasks.training.device import cpu_name, device_name

SHOWN = 3  # differences in one sentence
NEXT_STEP = "take another folder, or remove it to begin anew"


@dataclass(frozen=True, kw_only=True)
class FitIdentity:
    """What a checkpoint says of its fit, by name, as JSON."""

    decides: Mapping[str, Json]  # with another value it is another fit
    machine: Mapping[str, Json]  # this one; on another the same fit may end with other bits
    others: tuple[Mapping[str, Json], ...] = ()  # machines that it ran on before, unlike this one

    def record(self) -> dict[str, Json]:
        """Return what a checkpoint keeps."""
        machines: list[Json] = [dict(one) for one in (*self.others, self.machine)]
        return {"decides": dict(self.decides), "machines": machines}

    def demand_same(self, found: Mapping[str, Any], where: Path) -> None:
        """Raise BadRequestError where `found`, the record of the checkpoint `where`, is another fit's."""
        other = _differences(self.decides, found["decides"])
        if other:
            message = (
                f"checkpoint {where}: expected one of this fit, found another's, which differs in "
                f"{len(other)}: {'; '.join(other[:SHOWN])}; next step: {NEXT_STEP}"
            )
            raise BadRequestError(message)

    def after(self, found: Mapping[str, Any]) -> FitIdentity:
        """Return the identity of a fit that goes on from the checkpoint with the record `found`."""
        others = tuple(one for one in found["machines"] if _differences(self.machine, one))
        return replace(self, others=others)

    def place(self, where: str) -> str:
        """Return in words where a fit goes on, with a warning if it ran on another kind of machine before."""
        if not self.others:
            return where
        other = "; ".join(_differences(self.machine, self.others[0]))
        return f"{where} (WARNING: begun on another machine ({other}), its bits are not promised)"


def fit_identity(
    settings: Any, device: torch.device, *, data: str, network: Mapping[str, Json], **more: Json
) -> FitIdentity:
    """Return the identity of a fit with these settings (a dataclass) on `device`, asked before it trains."""
    return FitIdentity(
        decides={
            **asdict(settings),
            **more,
            "torch": str(torch.__version__),
            "data": data,
            **network,
        },
        machine={
            "device": device_name(device),
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
        },
    )


def data_digest(*parts: Any) -> str:
    """Return the sha256 of every array and value of some dataclasses, and how many bytes they are."""
    found, size = hashlib.sha256(), 0
    for part in parts:
        for item in fields(part):
            array = np.ascontiguousarray(getattr(part, item.name))
            found.update(f"{item.name} {array.dtype.str} {array.shape}\n".encode())
            found.update(array.tobytes())
            size += array.nbytes
    return f"{size} bytes, sha256 {found.hexdigest()}"


def network_of(model: nn.Module) -> dict[str, Json]:
    """Return a network's parts, their plain settings, shapes of tensors, and the digest of what it looks up.

    Weights are left out: they are drawn by the seed, and their last bits may hang on the CPU type. So may buffers of
    floats, which are counted from the data.
    """
    looked_up, found = hashlib.sha256(), dict[str, Json]()
    for name, part in model.named_modules():
        plain = {key: value for key, value in vars(part).items() if _is_setting(key, value)}
        found[f"network {name}".strip()] = f"{type(part).__name__} {plain}"
    for name, tensor in model.state_dict().items():
        found[f"network {name}"] = list(tensor.shape)
    for name, tensor in model.named_buffers():
        if not tensor.is_floating_point():
            looked_up.update(name.encode() + tensor.cpu().numpy().tobytes())
    return {**found, "network's tables": looked_up.hexdigest()}


def _is_setting(name: str, value: object) -> bool:
    if name[0] == "_" or name == "training":
        return False
    values = value if isinstance(value, tuple) else (value,)
    return all(isinstance(one, bool | int | float | str) for one in values)


def _differences(expected: Mapping[str, Json], found: Mapping[str, Json]) -> list[str]:
    names = [*expected, *(name for name in found if name not in expected)]
    return [
        f"{name}: {_said(expected, name)} expected, {_said(found, name)} found"
        for name in names
        if expected.get(name) != found.get(name)
    ]


def _said(values: Mapping[str, Json], name: str) -> str:
    return f"{values.get(name, 'nothing')!s:.100}"
