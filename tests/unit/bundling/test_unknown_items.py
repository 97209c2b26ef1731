"""Steps of items that nobody knows: what a network is asked about is what it was trained on, in torch and served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tasks.bundling.aten_export import export_module
from tasks.bundling.served_model import LoadedModel
from tasks.bundling.signatures import ServedModel, write_served_model
from tasks.compression.compress import CompressedModel, compress
from tasks.contracts.served_signatures import NEXT_EVENT, SERVING_DEFAULT
from tasks.models.interactions import EventRows, Interactions
from tasks.models.registry import build_model
from tasks.models.sequence_model import SequenceModel
from tasks.training.metrics import requests_for
from tasks.training.windows import training_windows

IDS = ("ant", "bee", "cat", "dog", "elk", "fox")
COLD = 0
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
    names = ("items", "steps_ago", *(("event_types",) if compressed.takes_event_types else ()))
    shown = {name: torch.ones((3, 7), dtype=torch.int64) for name in names}
    export = export_module(compressed, shown, compressed.names)
    weights = {name: value.numpy() for name, value in export.weights.items()}
    model = ServedModel(
        graph=export.graph, weights=weights, item_ids=IDS, k=6, max_length=5, exclude_seen=False
    )
    write_served_model(folder, model)
    with LoadedModel(folder) as loaded:
        yield loaded


def scores_trained_for(network: SequenceModel) -> torch.Tensor:
    """Return [2, I + 1]: what training asks for after the last known step before the users' last one."""
    typed = bool(getattr(network, "takes_event_types", False))
    windows = training_windows(known(last=0), network.steps, 5, typed=typed)
    assert windows.pair_item[windows.pair_place == network.steps - 1].tolist() == [4, 1]
    asked = [windows.items, windows.steps_ago, *([windows.event_types] if typed else [])]
    with torch.no_grad():
        states = network.states(*(torch.from_numpy(one.astype(np.int64)) for one in asked))
        return network.scores_of(states[:, -1])


def scores_of(answer: Any, row: int) -> list[float]:
    """Return the scores of a row in the order of the items."""
    found = dict(zip(answer["items"][row].tolist(), answer["scores"][row].tolist(), strict=True))
    return [found[name.encode()] for name in IDS]


def asked_of(served: LoadedModel, sent: dict[str, Any]) -> Any:
    if NEXT_EVENT in served.signatures:
        return served.ask(NEXT_EVENT, {**sent, "event_types": SENT_TYPES})
    return served.ask(SERVING_DEFAULT, sent)


def test_what_evaluation_asks_is_what_training_asked_for(network, compressed):
    evaluated = known(last=1)
    asked = requests_for(network, evaluated, evaluated.examples(1), 5)
    assert asked[0].tolist() == [[0, 0, 1, 2, 3], [0, 0, 0, 5, 6]]
    with torch.no_grad():
        plain, smaller = network(*asked), compressed(*asked)[0]

    expected = scores_trained_for(network)
    assert torch.allclose(plain, expected, atol=1e-5)
    assert torch.allclose(smaller, expected, atol=1e-5)
    assert expected[:, 1:].std() > 0.1


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


def test_items_of_one_step_stay_together_in_any_order_and_a_far_step_is_the_last_known(network):
    types = [torch.tensor([[1, 2, 3]])] if getattr(network, "takes_event_types", False) else []
    with torch.no_grad():
        expected = network(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 2, 1]]), *types)
        turned = network(
            torch.tensor([[3, 1, 2]]), torch.tensor([[40, 90, 90]]), *(t.roll(1) for t in types)
        )
    assert torch.allclose(turned, expected, atol=1e-5)
