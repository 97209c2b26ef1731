"""Steps of items that nobody knows: what a network is asked about is what it was trained on, in torch and served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.bundling.aten_export import export_module
from tasks.bundling.served_model import LoadedModel
from tasks.bundling.signatures import ServedModel, write_served_model
from tasks.compression.compress import CompressedModel, compress
from tasks.compression.golden_requests import answer
from tasks.contracts.served_signatures import NEXT_EVENT, SERVING_DEFAULT
from tasks.models.interactions import EventRows, Interactions
from tasks.models.known_steps import without_gaps
from tasks.models.popularity import Popularity
from tasks.models.registry import build_model
from tasks.models.scores import sum_by_item
from tasks.models.sequence_model import SequenceModel
from tasks.training.metrics import requests_for
from tasks.training.next_type import without_types
from tasks.training.windows import training_windows

IDS = ("ant", "bee", "cat", "dog", "elk", "fox")
COLD = 0
LENGTH = 5
NETWORK = {"num_items": len(IDS), "steps": 4, "width": 8, "layers": 1, "dropout": 0.0}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "gru": ("gru", {"hidden": 8}),
    "pre_norm": ("transformer", {"heads": 2}),
    "hstu": ("transformer", {"heads": 2, "block": "hstu"}),
    "typed": ("transformer", {"heads": 2, "event_types": True}),
}
# Ann's baskets: {ant, bee}, {?}, {cat, ?}, {?}, then {dog}. Bob's are single items: elk, ?, fox, ?, ?, ant.
USER = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
ITEM = [1, 2, COLD, 3, COLD, COLD, 4, 5, COLD, 6, COLD, COLD, 1]
BASKET = [0, 0, 1, 2, 2, 3, 4, 0, 1, 2, 3, 4, 5]
TYPE = [0, 3, 2, 2, 0, 1, 3, 0, 1, 2, 3, 3, 3]
SENT = {  # what the clients of Ann and Bob send before their last step
    "history": [["ant", "bee", "yak", "cat", "yak", "yak"], ["elk", "yak", "fox", "yak", "yak", ""]],
    "steps_ago": [[4, 4, 3, 2, 2, 1], [5, 4, 3, 2, 1, 0]],
}  # fmt: skip
SENT_TYPES = [
    ["view", "purchase", "cart", "cart", "view", "favourite"],
    ["view", "favourite", "cart", "purchase", "purchase", ""],
]


def known(last: int) -> Interactions:
    """Return Ann and Bob, with their last step in period `last`."""
    return Interactions.from_rows(
        EventRows(
            item_ids=np.asarray(IDS),
            user_ids=np.asarray(["ann", "bob"]),
            user=np.asarray(USER),
            item=np.asarray(ITEM),
            basket=np.asarray(BASKET),
            event_type=np.asarray(TYPE),
            time=np.asarray(BASKET),
            period=np.asarray([0, 0, 0, 0, 0, 0, last, 0, 0, 0, 0, 0, last]),
            repeats_allowed=True,
            baskets=True,
            order_only=False,
        )
    )


def written(folder: Path, model: torch.nn.Module, inputs: Sequence[str], names: Any) -> None:
    shown = {name: torch.ones((3, 7), dtype=torch.int64) for name in inputs}
    export = export_module(model, shown, names)
    weights = {name: value.numpy() for name, value in export.weights.items()}
    whole = ServedModel(
        graph=export.graph, weights=weights, item_ids=IDS, k=6, max_length=LENGTH,
        exclude_seen=False,
    )  # fmt: skip
    write_served_model(folder, whole)


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> SequenceModel:
    torch.manual_seed(2)
    architecture, arguments = NETWORKS[request.param]
    made = build_model(architecture, {**NETWORK, **arguments})
    for tensor in made.parameters():
        torch.nn.init.normal_(tensor)
    assert isinstance(made, SequenceModel)
    return made.eval()


@pytest.fixture(scope="module")
def compressed(network: SequenceModel) -> CompressedModel:
    return compress(network, "none")


@pytest.fixture(scope="module")
def served(
    compressed: CompressedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoadedModel]:
    folder = tmp_path_factory.mktemp("served")
    written(folder, compressed, compressed.inputs, compressed.names)
    with LoadedModel(folder) as loaded:
        yield loaded


def scores_trained_for(network: SequenceModel, *, typed: bool = True) -> torch.Tensor:
    """Return [2, I + 1]: what training asks for after the last known step before the users' last one."""
    typed = typed and bool(getattr(network, "takes_event_types", False))
    windows = training_windows(known(last=0), network.steps, LENGTH, typed=typed)
    assert windows.pair_item[windows.pair_place == network.steps - 1].tolist() == [4, 1]
    asked = [windows.items, windows.steps_ago, *([windows.event_types] if typed else [])]
    with torch.no_grad():
        states = network.states(*(torch.from_numpy(one.astype(np.int64)) for one in asked))
        return network.scores_of(states[:, -1])


def scores_of(found: Any, row: int) -> list[float]:
    """Return the scores of a row in the order of the items."""
    scores = dict(zip(found["items"][row].tolist(), found["scores"][row].tolist(), strict=True))
    return [scores[name.encode()] for name in IDS]


def asked_of(served: LoadedModel, sent: dict[str, Any]) -> Any:
    if NEXT_EVENT in served.signatures:
        return served.ask(NEXT_EVENT, {**sent, "event_types": SENT_TYPES})
    return served.ask(SERVING_DEFAULT, sent)


def test_what_evaluation_asks_is_what_training_asked_for(network, compressed):
    evaluated = known(last=1)
    asked = requests_for(network, evaluated, evaluated.examples(1), LENGTH)
    assert asked[0].tolist() == [[0, 0, 1, 2, 3], [0, 0, 0, 5, 6]]
    with torch.no_grad():
        plain, smaller = network(*asked), compressed(*asked)[0]

    expected = scores_trained_for(network)
    assert torch.allclose(plain, expected, atol=1e-5)
    assert torch.allclose(smaller, expected, atol=1e-5)
    assert expected[:, 1:].std() > 0.1


def test_a_baseline_is_asked_with_the_steps_of_unknown_items():
    evaluated = known(last=1)
    asked = requests_for(Popularity(len(IDS)), evaluated, evaluated.examples(1), LENGTH)

    assert asked[1].tolist() == [[0, 0, 4, 4, 2], [0, 0, 0, 5, 3]]
    assert compress(Popularity(len(IDS)), "none").inputs == ("items", "steps_ago")


def test_without_types_a_network_is_asked_so_too(network):
    scorer, evaluated = without_types(network), known(last=1)
    asked = requests_for(scorer, evaluated, evaluated.examples(1), LENGTH)
    with torch.no_grad():
        found = scorer(*asked)

    assert torch.allclose(found, scores_trained_for(network, typed=False), atol=1e-5)


def test_golden_requests_are_answered_so_and_keep_what_users_send(network, compressed):
    items = np.asarray([[0, 0, 1, 2, 3], [0, 0, 0, 5, 6]])
    ago = np.asarray([[0, 0, 4, 4, 2], [0, 0, 0, 5, 3]])
    _, scores = answer(compressed, items, ago, k=6, exclude=False)

    expected = scores_trained_for(network, typed=False)[:, 1:].sort(dim=1, descending=True)
    assert scores == pytest.approx(expected.values.numpy(), abs=1e-5)


def test_the_served_model_answers_so_whether_the_client_sends_the_unknown_items_or_not(
    network, served
):
    expected = scores_trained_for(network)[:, 1:].numpy()

    whole = asked_of(served, SENT)
    assert whole["scores"].shape == (2, 6)
    for row in (0, 1):
        assert scores_of(whole, row) == pytest.approx(expected[row], abs=1e-5)

    # Bob's steps hold one item each: positions say as much as steps_ago.
    without = asked_of(served, {"history": SENT["history"]})
    assert scores_of(without, 1) == pytest.approx(expected[1], abs=1e-5)


def test_a_history_of_unknown_items_only_is_an_empty_one(served):
    unknown = {"history": [["yak", "yak"]], "steps_ago": [[2, 1]]}
    empty = served.ask(SERVING_DEFAULT, {"history": [[""]]})
    assert served.ask(SERVING_DEFAULT, unknown)["scores"].tolist() == empty["scores"].tolist()


class Numbers(torch.nn.Module):
    """Scores are sums of the numbers of each item's steps."""

    def forward(self, items: torch.Tensor, steps: torch.Tensor) -> Any:
        return (sum_by_item(items, steps.to(torch.float32), len(IDS)),)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    folder = tmp_path_factory.mktemp("numbers")
    written(folder, Numbers(), ("items", "known_steps_ago"), ("scores",))
    with LoadedModel(folder) as loaded:
        yield loaded


def last_known(history: list[str], ago: list[int]) -> list[tuple[int, int]]:
    """Return (item, steps ago) of the last known items as the client has them; without a step, its place."""
    events = [(IDS.index(n) + 1, s) for n, s in zip(history, ago, strict=True) if n in IDS][
        -LENGTH:
    ]
    return [(item, step or len(events) - place) for place, (item, step) in enumerate(events)]


@pytest.mark.parametrize("length", (1, 2, 4, 5, 9))
def test_any_request_is_numbered_alike_served_in_torch_and_by_hand(numbers, length):
    generator = np.random.default_rng(length)
    history = generator.choice([*IDS, "yak", ""], (400, length), p=[0.1] * 6 + [0.3, 0.1])
    steps = generator.choice([0, 1, 2, 3, 5, 8, 40, 2**62], (400, length))  # in any order
    events = [last_known(*row) for row in zip(history.tolist(), steps.tolist(), strict=True)]
    padded = np.asarray([[(0, 7)] * (LENGTH - len(row)) + row for row in events])
    items, ago = torch.from_numpy(padded[:, :, 0]), torch.from_numpy(padded[:, :, 1])

    dense = without_gaps(items, ago)
    by_hand = []
    for row in events:
        order = sorted({step for _, step in row})
        by_hand.append([0] * (LENGTH - len(row)) + [order.index(step) + 1 for _, step in row])
    asked = {"history": history, "steps_ago": steps, "candidates": np.asarray([IDS] * 400)}
    served = numbers.ask("score", asked)["scores"]

    assert dense.tolist() == by_hand
    assert served.tolist() == Numbers()(items, dense)[0][:, 1:].tolist()
    assert any(row != [0] * LENGTH for row in by_hand)


def test_a_network_that_asks_for_both_numbers_is_refused(tmp_path):
    class Both(Numbers):
        def forward(self, items: torch.Tensor, steps: torch.Tensor, raw: torch.Tensor) -> Any:
            return super().forward(items, steps + raw)

    with pytest.raises(Exception, match="known_steps_ago may stand for steps_ago"):
        written(tmp_path, Both(), ("items", "known_steps_ago", "steps_ago"), ("scores",))
