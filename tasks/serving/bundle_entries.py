"""The entries of a served model as its `bundle.json` says them, and what a replacement lacks of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.contracts.errors import BadRequestError, bounded
from tasks.contracts.json_types import check_format, parse_object

BUNDLE_RECORD = "bundle.json"
MAX_NAMED = 3  # of what a bundle lacks
KINDS = ("serving_bundle", "classifier_bundle")  # of events, of pictures


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One signature: its tensors as `dtype[dimensions]`, and which inputs a client may leave out."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    optional: frozenset[str]

    def lacks(self, before: Entry) -> Iterator[str]:
        """Say what a client of `before` would miss: an input it sends, one it leaves out, an output."""
        for name, kind in sorted(before.inputs.items()):
            if self.inputs.get(name) != kind:
                yield f"input {name} {kind} (found {self.inputs.get(name, 'none')})"
        for name in sorted({*self.inputs} - self.optional):
            if name not in before.inputs or name in before.optional:
                yield f"a request without input {name} (found required)"
        for name, kind in sorted(before.outputs.items()):
            if name not in self.outputs or _axes(self.outputs[name]) != _axes(kind):
                yield f"output {name} {kind} (found {self.outputs.get(name, 'none')})"


@dataclass(frozen=True, kw_only=True)
class BundleEntries:
    """What clients may ask of a bundle."""

    kind: str
    entries: Mapping[str, Entry]

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> BundleEntries:
        """Read them from a bundle's record; errors name `where`."""
        record: Any = parse_object(text, where)
        kind = str(record.get("format")).partition("/")[0]
        check_format(record, kind if kind in KINDS else KINDS[0], 1, where)
        try:
            entries = {
                str(name): Entry(
                    inputs={**one["inputs"]},
                    outputs={**one["outputs"]},
                    optional=frozenset(one["defaults"]),
                )
                for name, one in record["signatures"].items()
            }
        except (AttributeError, KeyError, TypeError) as error:
            message = f"{where}: expected signatures with inputs, outputs and defaults, found: {error!r:.80}"
            raise BadRequestError(message) from error
        return cls(kind=kind, entries=entries)

    def lacks(self, before: BundleEntries) -> list[str]:
        """Return what clients of `before` would miss, in sentences' parts; none where this may replace it."""
        if self.kind != before.kind:
            return [f"a {before.kind} (found a {self.kind})"]
        missing: list[str] = []
        for name, entry in sorted(before.entries.items()):
            mine = self.entries.get(name)
            missing += (
                [f"{name} (found none)"]
                if mine is None
                else [f"{name}: {one}" for one in mine.lacks(entry)]
            )
        return missing

    def demand_all_of(self, before: BundleEntries, *, where: str, stable: str, way_on: str) -> None:
        """Refuse a bundle that lacks what clients ask of `stable`; the error names `where` and `way_on`."""
        lacks = self.lacks(before)
        if lacks:
            named = "; ".join(bounded(one, 120) for one in lacks[:MAX_NAMED])
            more = f" and {len(lacks) - MAX_NAMED} more" if len(lacks) > MAX_NAMED else ""
            message = (
                f"{where}: expected all that clients ask of stable's {stable}, "
                f"found it lacks {named}{more}; {way_on}"
            )
            raise BadRequestError(message)


def _axes(kind: str) -> tuple[str, int]:
    """Return dtype and number of axes: how long an output is depends on the model, its inputs' sizes do not."""
    dtype, _, sizes = kind.partition("[")
    return dtype, len(sizes.rstrip("]").split(",")) if sizes != "]" else 0
