"""The served graph around a network: string ids in and out, seen items out, top-k, by signature.

History is string [B, L], L >= 1, "" where there is nothing, on any side; ids outside the
vocabulary are ignored. The known ids keep their order, move to the right end and are cut to the
last `max_length`. steps_ago is int64 [B, L]: how many baskets ago, 1 the latest; 0 (or a missing
input, where the signature allows it) means "count positions from the end of the known history".
Networks that ask for known_steps_ago get it without the gaps that steps of unknown ids leave (`models.known_steps`).
`profile` also takes event_types string [B, L] and days_ago float32 [B, L] of the same events, and `next_event`, of
networks that read types, event_types. The other signatures leave types out: to them all are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tasks.bundling.aten_graph import Array, AtenGraph, Node, Ref, references
from tasks.bundling.profile_signature import ServedProfile, profile_outputs
from tasks.bundling.saved_model import GraphWriter, Signature, identity_of
from tasks.bundling.torch_to_tf import lower
from tasks.contracts.columns import EVENT_TYPES
from tasks.contracts.errors import BadRequestError
from tasks.contracts.served_signatures import NEXT_EVENT
from tasks.models.profile_definition import UNKNOWN_DAYS

_PROFILE = "profile/"
LOWEST_SCORE = float(np.finfo(np.float32).min)  # of padding, of unknown and of excluded items


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A network with what serving adds to it."""

    graph: (
        AtenGraph  # items, steps -> scores [B, I + 1], perhaps embedding; event_types -> next_types
    )
    weights: Mapping[str, Array]
    item_ids: Sequence[str]  # [I]
    k: int
    max_length: int
    exclude_seen: bool  # whether `serving_default` leaves out the items of the history
    profile: ServedProfile | None = None

    def __post_init__(self) -> None:
        """Refuse a network of another shape than recommendation needs."""
        inputs, outputs = set(self.graph.inputs), set(self.graph.outputs)
        steps = "known_steps_ago" if self.counts_known_steps else "steps_ago"
        wanted = {"items", steps} | ({"event_types"} if "next_types" in outputs else set())
        if inputs != wanted or "scores" not in outputs:
            message = (
                "served model: expected inputs items, steps_ago and an output scores, with an output "
                "next_types an input event_types too; known_steps_ago may stand for steps_ago; "
                f"found inputs {sorted(inputs)}, outputs {sorted(outputs)}"
            )
            raise BadRequestError(message)
        if not 1 <= self.k <= len(self.item_ids) or self.max_length < 1:
            message = (
                f"served model: expected 1 <= k <= {len(self.item_ids)} items and max_length >= 1,"
                f" found k={self.k}, max_length={self.max_length}"
            )
            raise BadRequestError(message)

    @property
    def takes_event_types(self) -> bool:
        """Say whether the network reads the types of events."""
        return "event_types" in self.graph.inputs

    @property
    def counts_known_steps(self) -> bool:
        """Say whether the network is asked with steps that leave out those of unknown ids."""
        return "known_steps_ago" in self.graph.inputs


def write_served_model(folder: Path, model: ServedModel) -> None:
    """Write the SavedModel with its signatures."""
    text = f"{model.graph.to_text()}\0{model.k}\0{model.max_length}\0{model.exclude_seen}\0"
    weights, text = model.weights, text + "\0".join(model.item_ids)
    if model.profile is not None:
        weights = {**weights, **_prefixed(model.profile.weights)}
        text = f"{text}\0{model.profile.text}"
    writer = GraphWriter(identity=identity_of(weights, text))
    with writer.graph.as_default():
        signatures = _Builder(model=model, writer=writer).signatures()
    writer.save(folder, signatures)


@dataclass(frozen=True, kw_only=True)
class _Aligned:
    """The known events of a batch at the right end, L' <= max_length."""

    items: Any  # int64 [B, L'], 0 where there is none
    steps: Any  # int64 [B, L'], 0 where there is no item
    order: Any  # int32 [B, L'], the place of each in what the client sent
    shape: Any  # of what the client sent

    def same_events(self, values: Any, nothing: Any) -> Any:
        """Return `values`, sent beside the history, for the known events; `nothing` elsewhere."""
        given = tf.broadcast_to(values, self.shape)
        return tf.where(self.items > 0, tf.gather(given, self.order, batch_dims=1), nothing)


@dataclass(frozen=True, kw_only=True)
class _Types:
    """Types of the events that a client sent."""

    sent: Any  # string [B, L]
    codes: Any  # int64 [B, L], 0 for what is no type


@dataclass(frozen=True, kw_only=True)
class _Builder:
    model: ServedModel
    writer: GraphWriter

    def signatures(self) -> dict[str, Signature]:
        """Return every signature; they share inputs and the network."""
        history = _placeholder("history", tf.string, [None, None])
        steps_ago = _placeholder("steps_ago", tf.int64, [None, None])
        requests = {"history": history, "steps_ago": steps_ago}
        ids, table = self._vocabulary()
        aligned = self._aligned(history, steps_ago, table)
        items = aligned.items
        types = self._types(optional=True) if self.model.takes_event_types else None
        outputs = self._network(aligned, types)
        scores = outputs["scores"]
        no_steps: dict[str, Array] = {"steps_ago": np.zeros((1, 1), np.int64)}
        answer = self._top(scores, items if self.model.exclude_seen else None, self.model.k, ids)
        found = {"serving_default": Signature(inputs=requests, outputs=answer, defaults=no_steps)}
        found["recommend"] = self._recommend(requests, scores, items, ids)
        found["score"] = self._score(requests, scores, table)
        if "embedding" in outputs:
            embedding = {"embedding": outputs["embedding"]}
            found["embed"] = Signature(inputs=requests, outputs=embedding, defaults=no_steps)
        if types is not None:
            found[NEXT_EVENT] = Signature(
                inputs={**requests, "event_types": types.sent},
                outputs={**answer, "next_types": outputs["next_types"]},
                defaults={**no_steps, "event_types": np.full((1, 1), "", np.object_)},
            )
        if self.model.profile is not None:
            found["profile"] = self._profile(self.model.profile, requests, aligned, table, types)
        return found

    def _types(self, *, optional: bool) -> _Types:
        """Return the input `event_types`; an optional one is unknown to signatures that leave it out."""
        name, unknown = "event_types", np.full((1, 1), "", np.object_)
        sent = (
            tf.compat.v1.placeholder_with_default(unknown, [None, None], name)
            if optional
            else _placeholder(name, tf.string, [None, None])
        )
        kinds = tf.range(1, len(EVENT_TYPES) + 1, dtype=tf.int64)
        known = self.writer.table("event_types", tf.constant(EVENT_TYPES), kinds)
        return _Types(sent=sent, codes=_look_up(known, sent))

    def _vocabulary(self) -> tuple[Any, Any]:
        """Return ids string [I + 1] ("" first) and the table from id to index, 0 if unknown."""
        ids = tf.constant(["", *self.model.item_ids], name="item_ids")
        indices = tf.range(1, len(self.model.item_ids) + 1, dtype=tf.int64)
        return ids, self.writer.table("items", ids[1:], indices)

    def _aligned(self, history: Any, steps_ago: Any, table: Any) -> _Aligned:
        """Return the known ids and their steps at the right end."""
        found = _look_up(table, history)
        length = tf.shape(found)[1]
        position = tf.range(length)
        rank = position + length * tf.cast(found > 0, tf.int32)
        kept = tf.minimum(length, self.model.max_length)
        order = tf.reverse(tf.math.top_k(rank, kept).indices, [1])
        items = tf.gather(found, order, batch_dims=1)
        given = tf.broadcast_to(steps_ago, tf.shape(found))
        steps = tf.gather(given, order, batch_dims=1)
        from_end = tf.range(tf.cast(kept, tf.int64), 0, -1)
        steps = tf.where(steps > 0, steps, from_end)
        steps = tf.where(items > 0, steps, tf.zeros([], tf.int64))
        return _Aligned(items=items, steps=steps, order=order, shape=tf.shape(found))

    def _network(self, aligned: _Aligned, types: _Types | None) -> dict[str, Any]:
        inputs = {"items": aligned.items}
        if self.model.counts_known_steps:
            inputs["known_steps_ago"] = _without_gaps(aligned.steps)
        else:
            inputs["steps_ago"] = aligned.steps
        if types is not None:
            inputs["event_types"] = aligned.same_events(types.codes, tf.zeros([], tf.int64))
        return network_outputs(self.writer, self.model.graph, self.model.weights, inputs)

    def _top(self, scores: Any, seen: Any | None, k: Any, ids: Any) -> dict[str, Any]:
        """Return items string [B, k] and scores; "" and the lowest score beyond the last item."""
        if seen is not None:
            scores = _without(scores, seen)
        found = tf.math.top_k(scores[:, 1:], k)
        missing = found.values <= LOWEST_SCORE
        index = tf.where(missing, tf.zeros([], tf.int32), found.indices + 1)
        return {"items": tf.gather(ids, index), "scores": tf.maximum(found.values, LOWEST_SCORE)}

    def _recommend(
        self, requests: Mapping[str, Any], scores: Any, items: Any, ids: Any
    ) -> Signature:
        """Return the signature whose k and exclude_seen the client chooses."""
        k = _placeholder("k", tf.int32, [])
        exclude = _placeholder("exclude_seen", tf.bool, [])
        seen = items * tf.cast(exclude, tf.int64)  # index 0 is padding: excluding it costs nothing
        at_most = tf.clip_by_value(k, 1, len(self.model.item_ids))
        return Signature(
            inputs={**requests, "k": k, "exclude_seen": exclude},
            outputs=self._top(scores, seen, at_most, ids),
            defaults={
                "steps_ago": np.zeros((1, 1), np.int64),
                "k": np.asarray(self.model.k, np.int32),
                "exclude_seen": np.asarray(self.model.exclude_seen),
            },
        )

    def _score(self, requests: Mapping[str, Any], scores: Any, table: Any) -> Signature:
        """Return the signature that scores given candidates; unknown ones get the lowest score."""
        candidates = _placeholder("candidates", tf.string, [None, None])
        index = _look_up(table, candidates)
        found = tf.gather(scores, index, axis=1, batch_dims=1)
        answer = tf.where(index > 0, tf.maximum(found, LOWEST_SCORE), LOWEST_SCORE)
        return Signature(
            inputs={**requests, "candidates": candidates},
            outputs={"scores": answer},
            defaults={"steps_ago": np.zeros((1, 1), np.int64)},
        )

    def _profile(
        self,
        profile: ServedProfile,
        requests: Mapping[str, Any],
        aligned: _Aligned,
        table: Any,
        types: _Types | None,
    ) -> Signature:
        """Return the signature that says what the events of the request make of the user."""
        types = self._types(optional=False) if types is None else types
        inputs = {**requests, "event_types": types.sent}
        defaults: dict[str, Array] = {
            "steps_ago": np.zeros((1, 1), np.int64),
            "event_types": np.full((1, 1), "", np.object_),
        }
        seen = {
            "items": aligned.items,
            "steps_ago": aligned.steps,
            "event_types": aligned.same_events(types.codes, tf.zeros([], tf.int64)),
        }
        if profile.definition.timed:
            inputs["days_ago"] = _placeholder("days_ago", tf.float32, [None, None])
            defaults["days_ago"] = np.full((1, 1), UNKNOWN_DAYS, np.float32)
            unknown = tf.constant(UNKNOWN_DAYS, tf.float32)
            seen["days_ago"] = aligned.same_events(inputs["days_ago"], unknown)
        made = network_outputs(self.writer, profile.graph, profile.weights, seen, _PROFILE)
        known = _look_up(table, requests["history"])
        outputs = profile_outputs(profile, made, requests["history"], known)
        return Signature(inputs=inputs, outputs=outputs, defaults=defaults)


def _prefixed(weights: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{_PROFILE}{name}": array for name, array in weights.items()}


def network_outputs(
    writer: GraphWriter,
    graph: AtenGraph,
    weights: Mapping[str, Array],
    inputs: Mapping[str, Any],
    prefix: str = "",
) -> dict[str, Any]:
    """Return a network's outputs by name; what depends on weights alone is derived at load.

    `prefix` tells the variables of two networks of one model apart.
    """
    stored = {name: writer.stored(f"{prefix}{name}", array) for name, array in weights.items()}
    early, late = split_at_load(graph)
    needed = _used_by(late, graph)
    frontier = [node.name for node in early if node.name in needed]
    derived = lower(early, stored, frontier)
    values = {
        **{name: stored[name] for name in stored if name in needed},
        **{name: writer.derived(f"{prefix}{name}", value) for name, value in derived.items()},
        **inputs,
    }
    made = lower(late, values, set(graph.outputs.values()))
    return {name: made[node] for name, node in graph.outputs.items()}


def split_at_load(graph: AtenGraph) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """Return nodes that depend on weights alone (run once, at load) and the others."""
    at_load = set(graph.weights)
    early: list[Node] = []
    late: list[Node] = []
    for node in graph.nodes:
        sources = {ref.name for ref in references(node.arguments)}
        if sources and sources <= at_load:
            at_load.add(node.name)
            early.append(node)
        else:
            late.append(node)
    return tuple(early), tuple(late)


def _used_by(nodes: Sequence[Node], graph: AtenGraph) -> set[str]:
    used = {ref.name for node in nodes for ref in references(node.arguments)}
    return used | {Ref(name).name for name in graph.outputs.values()}


def _placeholder(name: str, dtype: tf.DType, shape: list[int | None]) -> Any:
    return tf.compat.v1.placeholder(dtype, shape, name=name)


def _look_up(table: Any, keys: Any) -> Any:
    zero = tf.zeros([], tf.int64)
    found = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=keys, default_value=zero)
    found.set_shape(keys.shape)
    return found


def _without_gaps(steps: Any) -> Any:
    """Return int64 [B, L]: the `steps` there are numbered 1, 2, .. from the latest; 0 stays 0."""
    from_none = tf.pad(steps, [[0, 0], [1, 0]])  # the first of each row, in order, is 0
    ordered = -tf.math.top_k(-from_none, tf.shape(steps)[1] + 1).values
    changes = tf.cast(tf.not_equal(ordered, tf.roll(ordered, -1, 1)), tf.int64)
    numbers = tf.cumsum(changes, axis=1, exclusive=True)
    found = tf.raw_ops.LowerBound(sorted_inputs=ordered, values=steps)
    return tf.gather(numbers, found, batch_dims=1)


def _without(scores: Any, seen: Any) -> Any:
    """Return the scores with the lowest value at the indices `seen` int64 [B, L] of each row."""
    rows = tf.broadcast_to(tf.range(tf.shape(seen, tf.int64)[0])[:, None], tf.shape(seen))
    places = tf.stack([rows, seen], axis=-1)
    return tf.tensor_scatter_nd_update(scores, places, tf.fill(tf.shape(seen), LOWEST_SCORE))
