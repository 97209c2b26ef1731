"""A trained model with its weights in smaller forms, decoded inside its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

from torch import Tensor, nn
from torch.func import functional_call

from tasks.compression.coding import Coded, coded_8_bit
from tasks.contracts.errors import BadRequestError
from tasks.models.event_types import takes_event_types
from tasks.models.known_steps import counts_known_steps

Coder = Callable[[Tensor], Coded | None]


def _as_it_is(_tensor: Tensor) -> Coded | None:
    return None


# The names are those of `contracts.catalogues.COMPRESSIONS`.
CODERS: Mapping[str, Coder] = MappingProxyType({"int8": coded_8_bit, "none": _as_it_is})


class ServedOutputs(nn.Module):
    """What is served of a model: scores, the user's embedding and the next type where it has them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.has_embedding = callable(getattr(model, "embed", None))
        self.takes_event_types = takes_event_types(model)
        self.counts_known_steps = counts_known_steps(model)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs in order."""
        steps = "known_steps_ago" if self.counts_known_steps else "steps_ago"
        return ("items", steps, *(("event_types",) if self.takes_event_types else ()))

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the outputs in order."""
        embedding = ("embedding",) if self.has_embedding else ()
        return ("scores", *embedding, *(("next_types",) if self.takes_event_types else ()))

    def forward(
        self, items: Tensor, steps_ago: Tensor, event_types: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return scores [B, I + 1], perhaps the embedding [B, D] and the next type's chances [B, T]."""
        asked = (items, steps_ago) if event_types is None else (items, steps_ago, event_types)
        found: list[Tensor] = [self.model(*asked)]
        if self.has_embedding:
            found.append(self.model.embed(*asked))  # type: ignore[operator]
        if self.takes_event_types:
            found.append(self.model.next_types(*asked))  # type: ignore[operator]
        return tuple(found)


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
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs in order."""
        return self.network.inputs

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the outputs in order."""
        return self.network.names

    @property
    def takes_event_types(self) -> bool:
        """Say whether the model can be given the types of events."""
        return self.network.takes_event_types

    @property
    def counts_known_steps(self) -> bool:
        """Say whether the steps of a request are numbered without those of unknown items."""
        return self.network.counts_known_steps

    def forward(
        self, items: Tensor, steps_ago: Tensor, event_types: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return what `names` says of items, steps_ago and perhaps types, int64 [B, L]."""
        decoded = {name: self.get_submodule(place)() for name, place in self.places.items()}
        asked = (items, steps_ago) if event_types is None else (items, steps_ago, event_types)
        outputs = functional_call(self.network, decoded, asked)
        return cast("tuple[Tensor, ...]", outputs)


def compress(model: nn.Module, recipe: str) -> CompressedModel:
    """Return the model compressed by a recipe of the catalogue."""
    if recipe not in CODERS:
        message = f"compression: expected one of {sorted(CODERS)}, found {recipe!r:.80}"
        raise BadRequestError(message)
    return CompressedModel(model.eval(), CODERS[recipe]).eval()
