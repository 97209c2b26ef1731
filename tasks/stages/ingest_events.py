"""Raw events -> ValidatedEvents: mapped to the contract, put in order, cut into periods."""

from __future__ import annotations

import os
from types import MappingProxyType

from tasks.contracts.json_types import Json
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.events.landing import Landing, land
from tasks.events.plan import plan_ingest
from tasks.events.sources import fetch
from tasks.events.warehouse import connect

READS: MappingProxyType[str, ArtifactKind] = MappingProxyType({})
GATED: frozenset[str] = frozenset()
PRODUCES = ArtifactKind.VALIDATED_EVENTS


def configure(context: StageContext) -> dict[str, Json]:
    """Return data set, periods, mapping and the digests of the files that will be read."""
    return plan_ingest(context.the_release(), os.environ).to_config()


def run(context: StageContext) -> Outcome:
    """Read the sources and write events, catalogue and profile."""
    plan = plan_ingest(context.the_release(), os.environ)
    context.progress(f"fetching {len(plan.sources)} source files of {plan.dataset}", 0.0)
    folder = context.work / "sources"
    fetched = [fetch(source, folder) for source in plan.sources]
    fetched_catalogue = [fetch(source, folder) for source in plan.catalogue_sources]
    context.progress("mapping events to the contract", 0.2)
    connection = connect(context.work / "duckdb")
    raw = plan.read(
        connection, [path for path, _ in fetched], [path for path, _ in fetched_catalogue]
    )
    context.progress("ordering events and cutting periods", 0.4)
    landing = Landing(
        dataset=plan.dataset,
        kind=plan.kind,
        periods=plan.periods,
        as_of=plan.as_of,
        sources=tuple(found for _, found in (*fetched, *fetched_catalogue)),
    )
    profile = land(connection, raw, landing, context.out)
    context.progress("events landed", 1.0)
    return Outcome(
        sentence=(
            f"{profile['events']} events of {profile['users']} users on {profile['items']} items; "
            f"{raw.rows_read} rows read"
        ),
        facts={"rows_read": raw.rows_read},
    )
