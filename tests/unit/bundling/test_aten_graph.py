"""The neutral record, its simplification, and errors that name operator and node."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tasks.bundling.aten_graph import AtenGraph, Dtype, Node, Ref, TensorKind
from tasks.bundling.simplify import simplify
from tasks.bundling.torch_to_tf import lower_graph
from tasks.contracts.errors import BadRequestError

SQUARE = TensorKind(dtype="float32", shape=("b", 4))
TABLE = TensorKind(dtype="float32", shape=(4, 4))


def node(name: str, op: str, kind: TensorKind = SQUARE, **arguments: object) -> Node:
    return Node(name=name, op=op, arguments=arguments, kind=kind)  # type: ignore[arg-type]


def graph(*nodes: Node) -> AtenGraph:
    return AtenGraph(
        inputs={"x": SQUARE}, weights={"w": TABLE}, nodes=nodes, outputs={"y": nodes[-1].name}
    )


def test_a_record_survives_writing_and_reading() -> None:
    clamp = node(
        "n",
        "aten.clamp.default",
        self=Ref("x"),
        min=-math.inf,
        max=None,
        dtype=Dtype("int64"),
        sizes=(1, Ref("x"), True, "floor"),
    )
    written = graph(replace(clamp, compute="float32"))
    assert AtenGraph.parse(written.to_text(), "here") == written


def test_a_record_of_a_later_format_is_refused() -> None:
    text = graph(node("n", "aten.neg.default", self=Ref("x"))).to_text()
    with pytest.raises(BadRequestError, match="graph.json: expected format aten_graph/1"):
        AtenGraph.parse(text.replace("aten_graph/1", "aten_graph/2"), "graph.json")


def test_a_node_that_uses_what_nobody_made_is_refused() -> None:
    with pytest.raises(BadRequestError, match=r"node n .*missing \['ghost'\]"):
        graph(node("n", "aten.neg.default", self=Ref("ghost")))


def test_an_unknown_operator_is_named_with_its_node() -> None:
    made = graph(node("n7", "aten.fft_fft.default", self=Ref("x")))
    with pytest.raises(BadRequestError, match=r"node n7: .*found aten\.fft_fft\.default"):
        lower_graph(made, {"x": np.zeros((2, 4), np.float32)})


def test_copies_casts_to_the_same_type_and_unused_nodes_go() -> None:
    made = simplify(
        graph(
            node("copy", "aten.clone.default", self=Ref("x")),
            node("same", "aten._to_copy.default", self=Ref("copy"), dtype=Dtype("float32")),
            node("unused", "aten.exp.default", self=Ref("same")),
            node("n", "aten.neg.default", self=Ref("same")),
        )
    )
    assert [(item.name, item.arguments) for item in made.nodes] == [("n", {"self": Ref("x")})]
    assert made.weights == {}


def test_a_view_to_another_shape_stays() -> None:
    flat = TensorKind(dtype="float32", shape=("4*b",))
    made = simplify(graph(node("n", "aten.view.default", flat, self=Ref("x"), size=(-1,))))
    assert len(made.nodes) == 1


def test_the_same_call_twice_is_made_once_but_one_and_true_differ() -> None:
    made = simplify(
        graph(
            node("a", "aten.add.Scalar", self=Ref("x"), other=1),
            node("b", "aten.add.Scalar", self=Ref("x"), other=1),
            node("c", "aten.add.Scalar", self=Ref("x"), other=True),
            node("d", "aten.mul.Tensor", self=Ref("b"), other=Ref("c")),
        )
    )
    assert [item.name for item in made.nodes] == ["a", "c", "d"]
    assert made.nodes[-1].arguments == {"self": Ref("a"), "other": Ref("c")}


def test_a_product_with_a_transposed_table_becomes_linear() -> None:
    made = simplify(
        graph(
            node("t", "aten.permute.default", TABLE, self=Ref("w"), dims=(1, 0)),
            node("n", "aten.mm.default", self=Ref("x"), mat2=Ref("t")),
        )
    )
    (only,) = made.nodes
    assert (only.op, only.arguments["weight"]) == ("aten.linear.default", Ref("w"))


def test_a_product_with_a_table_permuted_otherwise_stays() -> None:
    made = simplify(
        graph(
            node("t", "aten.permute.default", TABLE, self=Ref("w"), dims=(0, 1)),
            node("n", "aten.mm.default", self=Ref("x"), mat2=Ref("t")),
        )
    )
    assert [item.op for item in made.nodes] == ["aten.permute.default", "aten.mm.default"]
