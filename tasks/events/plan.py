"""What one ingest reads and how, resolved from the release request before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import fsspec
from ibis.backends.duckdb import Backend

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json
from tasks.contracts.requests import ReleaseRequest, parse_utc
from tasks.events.datasets import KNOWN_SETS, SetKind
from tasks.events.mapped_events import read_mapped, read_table
from tasks.events.mapping import CsvRule, EventsMapping, identity_mapping, parse_mapping
from tasks.events.periods import PeriodRule, SpanShares
from tasks.events.raw_events import RawEvents
from tasks.events.sources import Source, digest, url_sources


@dataclass(frozen=True, kw_only=True)
class IngestPlan:
    """Files, kind, periods and mapping of one ingest."""

    dataset: str
    as_of: datetime
    kind: SetKind
    periods: PeriodRule
    sources: tuple[Source, ...]
    catalogue_sources: tuple[Source, ...] = ()  # of one's own events; other sets know theirs
    mapping: EventsMapping | None = None  # None: the file has the contract's columns

    def to_config(self) -> dict[str, Json]:
        """Return what decides the payload: bytes of the sources by digest, not by place."""
        mapping = None if self.mapping is None else self.mapping.to_json()
        return {
            "dataset": self.dataset,
            "as_of": None if self.kind.order_only else self.as_of.isoformat(),
            "kind": asdict(self.kind),
            "periods": self.periods.to_json(),
            "sources": [digest(source).to_json() for source in self.sources],
            "catalogue_sources": [digest(source).to_json() for source in self.catalogue_sources],
            "mapping": mapping,
        }

    def read(self, connection: Backend, paths: list[Path], catalogue: list[Path]) -> RawEvents:
        """Read fetched files as raw events."""
        if self.dataset in KNOWN_SETS:
            return KNOWN_SETS[self.dataset].read(connection, paths)
        where = self.sources[0].name
        csv = self.mapping.csv if self.mapping else CsvRule()
        raw = read_table(connection, paths, csv)
        mapping = self.mapping or identity_mapping(tuple(raw.columns))
        items = read_table(connection, catalogue, mapping.catalogue_csv) if catalogue else None
        return read_mapped(raw, items, mapping, where)


def plan_ingest(request: ReleaseRequest, environ: Mapping[str, str]) -> IngestPlan:
    """Resolve the data set of a request; `environ` is looked at only for sets in a data folder."""
    as_of = parse_utc(request.as_of)
    if request.dataset in KNOWN_SETS:
        known = KNOWN_SETS[request.dataset]
        return IngestPlan(
            dataset=request.dataset,
            as_of=as_of,
            kind=known.kind,
            periods=known.periods,
            sources=known.find(environ),
        )
    return _plan_own_events(request, as_of)


def _plan_own_events(request: ReleaseRequest, as_of: datetime) -> IngestPlan:
    mapping = None if request.mapping_url is None else _read_mapping(request.mapping_url)
    kind = SetKind(
        repeats_allowed=mapping.repeats_allowed if mapping else True,
        order_only=mapping.order_only if mapping else False,
    )
    return IngestPlan(
        dataset=request.dataset,
        as_of=as_of,
        kind=kind,
        periods=mapping.periods if mapping else SpanShares(),
        sources=url_sources(request.events_url or "", "events_url"),
        catalogue_sources=url_sources(request.catalogue_url, "catalogue_url")
        if request.catalogue_url
        else (),
        mapping=mapping,
    )


def _read_mapping(url: str) -> EventsMapping:
    (source,) = url_sources(url, "mapping_url")[:1]
    try:
        with fsspec.open(source.url, "rt", encoding="utf-8") as stream:
            text = stream.read()
    except UnicodeDecodeError as error:
        message = f"{source.name}: expected a TOML file in UTF-8, found other bytes: {error}"
        raise BadRequestError(message) from error
    return parse_mapping(text, source.name)
