"""Whatever a release came to -> Mirror: MLflow is told; its absence fails nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.chain import read_facts, walk
from tasks.adapters.mirror_plots import ShadowSeen, Traffic
from tasks.adapters.mirrored_release import collect, parameters_of
from tasks.adapters.mlflow_mirror import MirroredAs, MirroredRelease, answers, connect, publish
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.artifacts import Address
from tasks.contracts.catalogues import Material
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, pretty_json
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.contracts.store_urls import without_credentials
from tasks.rollout.comparison import DEPTHS, SHADOW_REPORT, ShadowReport
from tasks.rollout.exposure_files import read_exposures
from tasks.rollout.exposures import rollout_folder
from tasks.rollout.ledger import LedgerEntry
from tasks.rollout.state import ModelState, open_state

READS: Mapping[str, ArtifactKind] = MappingProxyType(
    {
        "events?": ArtifactKind.VALIDATED_EVENTS,
        "features?": ArtifactKind.FEATURE_SET,
        "model?": ArtifactKind.TRAINED_MODEL,
        "compressed?": ArtifactKind.COMPRESSED_MODEL,
        "bundle?": ArtifactKind.SERVING_BUNDLE,
        "evaluation?": ArtifactKind.EVALUATION,
        "slot?": ArtifactKind.STAGED_SLOT,
        "verdict?": ArtifactKind.STEP_VERDICT,
        "released?": ArtifactKind.RELEASE,
        "rollback?": ArtifactKind.ROLLBACK,
    }
)
GATED: frozenset[str] = frozenset()
PRODUCES = ArtifactKind.MIRROR
MIRROR_FILE = "mirror.json"
# Where the mirror is, not what is decided: the one address that no release request can pin.
ADDRESS_VARIABLE = "HEADRACE_MLFLOW"


def configure(context: StageContext) -> dict[str, Json]:
    """Return the release, how far its ledger is, and whether MLflow answers.

    So a mirror that was away is written by the next try, and aliases follow every later move.
    """
    release = context.the_release()
    return {
        "release_id": release.release_id,
        "model": release.model,
        "sequence": _state(context).peek().sequence,
        "mlflow": _mlflow(),  # without its address, which is no part of the artifact
    }


def run(context: StageContext) -> Outcome:
    """Publish, or say that there is nobody to publish to."""
    release, mlflow = context.the_release(), _mlflow()
    if mlflow != "answers":
        _write(context, {"status": mlflow})
        at = without_credentials(os.environ.get(ADDRESS_VARIABLE, ""))
        return Outcome(
            sentence=f"warning: MLflow {mlflow}{at and f' at {at}'}: {release.release_id} is not "
            "mirrored; the ledger has everything; clear this task when MLflow is back"
        )
    state = _state(context)
    told = mirrored_release(context, state)
    mirrored = publish(connect(os.environ[ADDRESS_VARIABLE]), told, _serving(state))
    _write(context, _record(mirrored, told.status))
    version = f", version {mirrored.version}" if mirrored.version else ""
    return Outcome(
        sentence=f"{release.model}: {release.release_id} ({told.status}) is run "
        f"{mirrored.run_id}{version} in MLflow"
    )


def mirrored_release(context: StageContext, state: ModelState) -> MirroredRelease:
    """Return all that MLflow is told."""
    release = context.the_release()
    entries = [e for e in state.history() if e.release_id == release.release_id]
    store = ArtifactStore(ObjectStore(context.store_url), cache=context.work / "cache")
    starts = [item.manifest.address for item in context.inputs.values()]
    if context.release_address is not None:
        starts.append(Address.parse(context.release_address))
    contents = collect(
        store,
        walk(store, starts).found,
        _traffic(context, entries),
        context.work / "mirror",
        _shadow(context, entries),
    )
    bundle = context.inputs.get("bundle")
    numbers = [entry.release_number for entry in entries if entry.release_number is not None]
    return MirroredRelease(
        model=release.model,
        release_id=release.release_id,
        status=status_of(entries),
        at_milliseconds=int(_requested_at(context, store) * 1000),
        parameters=parameters_of(release),
        points=contents.points,
        files=contents.files,
        release_number=numbers[0] if numbers else None,
        bundle=None if bundle is None or not numbers else bundle.address,
        tags={"mlflow.note.content": _note(entries)},
    )


def _requested_at(context: StageContext, store: ArtifactStore) -> float:
    """Return when the release was requested, in unix seconds; 0 where nobody wrote it down."""
    if context.release_address is None:
        return 0.0
    found = read_facts(store, Address.parse(context.release_address)).get("started_at")
    return float(found) if isinstance(found, int | float) else 0.0


def status_of(entries: list[LedgerEntry]) -> str:
    """Return what became of the release: its last end, or that it never reached a slot."""
    ends = [entry.kind for entry in entries if entry.kind in {"promoted", "rolled_back"}]
    if ends:
        return ends[-1].replace("_", " ")
    return "in progress" if entries else "not staged"


def _note(entries: list[LedgerEntry]) -> str:
    lines = [f"- {entry.at} **{entry.kind}** {entry.why}" for entry in entries]
    return "From the ledger:\n\n" + ("\n".join(lines) or "no entry: it never reached a slot")


def _traffic(context: StageContext, entries: list[LedgerEntry]) -> Traffic:
    numbers = {entry.release_number for entry in entries if entry.release_number is not None}
    model, traffic = context.the_release().model, Traffic()
    for number in sorted(numbers):
        for row in read_exposures(rollout_folder(context.the_state_dir(), model, f"r{number}")):
            traffic.add(float(row["time"]), str(row["variant"]), int(row["step"]))
    return traffic


def _shadow(context: StageContext, entries: list[LedgerEntry]) -> ShadowSeen | None:
    """Return what the comparator saw of this release; it is no evidence, and may be missing."""
    numbers = [entry.release_number for entry in entries if entry.release_number is not None]
    if not numbers:
        return None
    model = context.the_release().model
    folder = rollout_folder(context.the_state_dir(), model, f"r{numbers[0]}")
    try:
        report = ShadowReport.parse((folder / SHADOW_REPORT).read_bytes(), str(folder))
    except (OSError, BadRequestError):
        return None
    return ShadowSeen(
        compared=report.compared,
        overlap_counts=report.overlap_counts,
        overlap=report.overlap[str(DEPTHS[-1])],
        same_first=report.overlap[str(DEPTHS[0])],
        rank_biased_overlap=report.rbo,
        score_differences=report.score_differences,
        of_classes=context.the_release().material is Material.PICTURES,
    )


def _serving(state: ModelState) -> dict[str, int | None]:
    """Return the release number behind each alias, as the state record has it."""
    record = state.peek()
    previous = record.roles.previous
    slots = {
        "champion": record.stable,
        "candidate": record.candidate,
        "previous": None if previous is None else record.slots.get(previous),
    }
    return {alias: None if s is None else s.release_number for alias, s in slots.items()}


def _state(context: StageContext) -> ModelState:
    model = context.the_release().model
    return open_state(
        context.the_state_dir(), model, ObjectStore(context.store_url), records=context.records
    )


def _mlflow() -> str:
    address = os.environ.get(ADDRESS_VARIABLE)
    if not address:
        return f"is not configured ({ADDRESS_VARIABLE})"
    return "answers" if answers(address) else "does not answer"


def _record(mirrored: MirroredAs, status: str) -> dict[str, Json]:
    aliases: dict[str, Json] = dict(mirrored.aliases)
    return {
        "status": "mirrored",
        "release_status": status,
        "run_id": mirrored.run_id,
        "version": mirrored.version,
        "aliases": aliases,
    }


def _write(context: StageContext, record: dict[str, Json]) -> None:
    text = pretty_json(
        {"format": "mirror/1", "release_id": context.the_release().release_id, **record}
    )
    (context.out / MIRROR_FILE).write_text(text, encoding="utf-8")
