"""A trained model with its weights in smaller forms, decoded inside its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

from torch import Tensor, nn
from torch.func import functional_call

from tasks.compression.coding import Coded, coded_8_bit
from tasks.contracts.errors import BadRequestError

Coder = Callable[[Tensor], Coded | None]


def _as_it_is(_tensor: Tensor) -> Coded | None:
    return None


# The names are those of `contracts.catalogues.COMPRESSIONS`.
CODERS: Mapping[str, Coder] = MappingProxyType({"int8": coded_8_bit, "none": _as_it_is})


class ServedOutputs(nn.Module):
    """What is served of a model: scores, and the user's embedding where the model has one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.has_embedding = callable(getattr(model, "embed", None))

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the outputs in order."""
        return ("scores", "embedding") if self.has_embedding else ("scores",)

    def forward(self, items: Tensor, steps_ago: Tensor) -> tuple[Tensor, ...]:
        """Return scores [B, I + 1] and perhaps the embedding [B, D]."""
        scores = self.model(items, steps_ago)
        if not self.has_embedding:
            return (scores,)
        return scores, self.model.embed(items, steps_ago)  # type: ignore[operator]


class CompressedModel(nn.Module):
    """Served outputs computed with decoded weights: the reference of every later comparison."""

    def __init__(self, model: nn.Module, coder: Coder) -> None:
        super().__init__()
        self.network = ServedOutputs(model).eval()
        tensors = self.network.state_dict()
        found = {name: coder(tensor) for name, tensor in tensors.items()}
        self.places = {
            name: f"coded_{place}"
            for place, name in enumerate(sorted(found))
            if found[name] is not None
        }
        for name, place in self.places.items():
            self.add_module(place, cast("nn.Module", found[name]))

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the outputs in order."""
        return self.network.names

    def forward(self, items: Tensor, steps_ago: Tensor) -> tuple[Tensor, ...]:
        """Return scores [B, I + 1] and perhaps the embedding [B, D]."""
        decoded = {name: self.get_submodule(place)() for name, place in self.places.items()}
        outputs = functional_call(self.network, decoded, (items, steps_ago))
        return cast("tuple[Tensor, ...]", outputs)


def compress(model: nn.Module, recipe: str) -> CompressedModel:
    """Return the model compressed by a recipe of the catalogue."""
    if recipe not in CODERS:
        message = f"compression: expected one of {sorted(CODERS)}, found {recipe!r:.80}"
        raise BadRequestError(message)
    return CompressedModel(model.eval(), CODERS[recipe]).eval()
