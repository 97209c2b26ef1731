"""Raw events or pictures -> ValidatedEvents: by the contract, in order, cut into periods."""

from __future__ import annotations

import os
from types import MappingProxyType

from tasks.contracts.catalogues import Material
from tasks.contracts.json_types import Json
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.events.landing import Landing, land
from tasks.events.pictures import land_pictures, plan_pictures
from tasks.events.plan import plan_ingest
from tasks.events.sources import fetch
from tasks.events.warehouse import connect

READS: MappingProxyType[str, ArtifactKind] = MappingProxyType({})
GATED: frozenset[str] = frozenset()
PRODUCES = ArtifactKind.VALIDATED_EVENTS


def configure(context: StageContext) -> dict[str, Json]:
    """Return data set, periods, mapping and the digests of the files that will be read."""
    release = context.the_release()
    if release.material is Material.PICTURES:
        return plan_pictures(release.dataset, os.environ).to_config()
    return plan_ingest(release, os.environ).to_config()


def run(context: StageContext) -> Outcome:
    """Read the sources and write events and catalogue, or pictures, with a profile."""
    if context.the_release().material is Material.PICTURES:
        return _ingest_pictures(context)
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


def _ingest_pictures(context: StageContext) -> Outcome:
    plan = plan_pictures(context.the_release().dataset, os.environ)
    context.progress(f"reading {len(plan.sources)} source files of {plan.dataset}", 0.0)
    paths = [fetch(source, context.work / "sources")[0] for source in plan.sources]
    profile = land_pictures(plan, paths, context.out)
    context.progress("pictures landed", 1.0)
    size = f"{profile['height']} x {profile['width']}"
    classes = len(plan.known.class_names)
    return Outcome(sentence=f"{profile['pictures']} pictures of {size} pixels in {classes} classes")
