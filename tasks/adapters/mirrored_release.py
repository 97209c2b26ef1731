"""What of a release goes to the mirror: parameters, figures, manifests, gate pages, plots."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from tasks.adapters import mirror_plots
from tasks.adapters.chain import SealedReport, read_facts, reports_by_content
from tasks.adapters.mlflow_mirror import Point
from tasks.contracts.errors import HeadraceError
from tasks.contracts.gate_reports import PAGE_NAME, REPORT_NAME
from tasks.contracts.json_types import Json, parse_object
from tasks.contracts.requests import ReleaseRequest
from tasks.contracts.stages import ArtifactKind

if TYPE_CHECKING:
    from tasks.adapters.artifact_store import ArtifactStore
    from tasks.contracts.artifacts import Address, Manifest


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure by which models are compared, and where artifacts have it."""

    name: str
    column: str  # prefix in an evaluation's rows
    score: str  # of an epoch, on the select period
    file: str  # its plot
    who: str  # what a row is


# What a model is measured by: of recommenders, and of classifiers of pictures.
METRICS = (
    Metric(name="NDCG@10", column="ndcg_", score="select_ndcg10", file="ndcg10.png", who="users"),
    Metric(
        name="accuracy",
        column="right_",
        score="select_accuracy",
        file="accuracy.png",
        who="pictures",
    ),
)
SUMMARIES: Mapping[ArtifactKind, str] = {
    ArtifactKind.TRAINED_MODEL: "report.json",
    ArtifactKind.COMPRESSED_MODEL: "compression.json",
    ArtifactKind.SERVING_BUNDLE: "parity.json",
    ArtifactKind.EVALUATION: "summary.json",
    ArtifactKind.STAGED_SLOT: "infra.json",
    ArtifactKind.STEP_VERDICT: "verdict.json",
}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_\-. /]")
MAX_POINTS_A_FILE = 200


@dataclass(kw_only=True)
class Contents:
    """What is collected for the mirror; files are grouped by their folder in the run."""

    points: list[Point] = field(default_factory=list)
    files: dict[str, list[Path]] = field(default_factory=dict)

    def add_file(self, folder: str, path: Path) -> None:
        """Add a file to a folder of the run."""
        self.files.setdefault(folder, []).append(path)


def parameters_of(release: ReleaseRequest) -> dict[str, str]:
    """Return the request's fields as MLflow's parameters."""
    champion = release.champion
    return {
        "model": release.model,
        "dataset": release.dataset,
        "recipe": release.recipe,
        "compression": release.compression,
        "plan": release.plan.name,
        "seed": str(release.seed),
        "as_of": release.as_of,
        "approval": str(release.approval),
        "champion": "none" if champion is None else str(champion.release_number),
        "evaluation.margin": str(release.evaluation.margin),
        "evaluation.alpha": str(release.evaluation.alpha),
    }


def collect(
    store: ArtifactStore,
    artifacts: Mapping[Address, Manifest],
    traffic: mirror_plots.Traffic,
    scratch: Path,
    shadow: mirror_plots.ShadowSeen | None = None,
) -> Contents:
    """Gather everything about these artifacts; what cannot be read is left out, not fatal."""
    contents = Contents()
    reports, _ = reports_by_content(store)
    steps: dict[ArtifactKind, int] = {}
    for address, manifest in sorted(artifacts.items(), key=lambda pair: str(pair[0])):
        step = steps.get(address.kind, 0)
        steps[address.kind] = step + 1
        place = address.kind.value if step == 0 else f"{address.kind.value}_{step + 1}"
        _add_manifest(contents, store, manifest, place, scratch)
        contents.points += _points(store, manifest, step)
        for index, sealed_report in enumerate(reports.get(manifest.content, [])):
            _add_report(contents, store, sealed_report, f"{place}_{index + 1}", scratch)
    for path in _plots(store, artifacts, traffic, scratch):
        contents.add_file("plots", path)
    if shadow is not None and shadow.compared:
        mirror_plots.shadow(shadow, scratch / "plots" / "shadow.png")
        contents.add_file("plots", scratch / "plots" / "shadow.png")
    return contents


def _add_manifest(
    contents: Contents, store: ArtifactStore, manifest: Manifest, place: str, scratch: Path
) -> None:
    path = scratch / "manifests" / f"{place}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(manifest.to_text(), encoding="utf-8")
    contents.add_file("manifests", path)
    name = SUMMARIES.get(manifest.kind)
    source = store.fetch(manifest) / name if name else None
    if source is not None and source.exists():
        contents.add_file(f"summaries/{place}", source)


def _add_report(
    contents: Contents,
    store: ArtifactStore,
    sealed_report: SealedReport,
    place: str,
    scratch: Path,
) -> None:
    folder = store.fetch(store.manifest(sealed_report.address))
    for name in (REPORT_NAME, PAGE_NAME):
        if (folder / name).exists():
            copy = scratch / "gates" / place / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((folder / name).read_bytes())
            contents.add_file(f"gates/{place}", copy)


def _points(store: ArtifactStore, manifest: Manifest, step: int) -> list[Point]:
    """Return the figures of an artifact: seconds, bytes, the numbers of its summary."""
    kind = manifest.kind.value
    points = [Point(name=f"{kind}/bytes", value=float(manifest.size), step=step)]
    seconds = read_facts(store, manifest.address).get("seconds")
    if isinstance(seconds, int | float):
        points.append(Point(name=f"{kind}/seconds", value=float(seconds), step=step))
    folder = store.fetch(manifest)
    name = SUMMARIES.get(manifest.kind)
    if name is not None and (folder / name).exists():
        record = parse_object((folder / name).read_bytes(), f"{manifest.address}/{name}")
        numbers = list(numbers_in(record, kind))[:MAX_POINTS_A_FILE]
        points += [Point(name=label, value=value, step=step) for label, value in numbers]
    if manifest.kind is ArtifactKind.TRAINED_MODEL:
        metric, epochs = _epochs(folder)
        points += [
            point
            for epoch in epochs
            for point in (
                Point(name="train/loss", value=epoch.loss, step=epoch.epoch),
                Point(name=f"train/{metric.score}", value=epoch.score, step=epoch.epoch),
            )
        ]
    return points


def numbers_in(value: Json, name: str) -> Iterator[tuple[str, float]]:
    """Yield every number inside JSON objects as (path, value); lists and truths are left out."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield _NOT_IN_NAMES.sub("_", name)[:250], float(value)
    elif isinstance(value, dict):
        for key, inner in sorted(value.items()):
            yield from numbers_in(inner, f"{name}/{key}")


def _epochs(folder: Path) -> tuple[Metric, list[mirror_plots.Epoch]]:
    path = folder / "curve.json"
    rows: Any = []
    if path.exists():
        rows = parse_object(path.read_bytes(), str(path)).get("epochs", [])
    metric = next((one for one in METRICS if rows and one.score in rows[0]), METRICS[0])
    return metric, [
        mirror_plots.Epoch(
            epoch=int(row["epoch"]), loss=float(row["loss"]), score=float(row[metric.score])
        )
        for row in rows
    ]


def _plots(
    store: ArtifactStore,
    artifacts: Mapping[Address, Manifest],
    traffic: mirror_plots.Traffic,
    scratch: Path,
) -> Iterator[Path]:
    folder = scratch / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    for manifest in artifacts.values():
        try:
            yield from _plots_of(store.fetch(manifest), manifest.kind, folder)
        except (HeadraceError, KeyError, ValueError):
            continue  # a plot less is no reason to have no mirror
    if traffic.counts:
        mirror_plots.traffic(traffic, folder / "traffic.png")
        yield folder / "traffic.png"


def _plots_of(payload: Path, kind: ArtifactKind, folder: Path) -> Iterator[Path]:
    if kind is ArtifactKind.TRAINED_MODEL:
        metric, epochs = _epochs(payload)
        if epochs:
            mirror_plots.learning_curve(epochs, folder / "learning_curve.png", metric.name)
            yield folder / "learning_curve.png"
    if kind is ArtifactKind.EVALUATION:
        table = pq.read_table(payload / "rows.parquet")
        for metric in METRICS:
            names = [name for name in table.column_names if name.startswith(metric.column)]
            columns = {name.removeprefix(metric.column): table[name].to_numpy() for name in names}
            known = {name: v for name, v in columns.items() if mirror_plots.has_numbers(v)}
            if known:
                path = folder / metric.file
                mirror_plots.against_baselines(known, path, metric.name, metric.who)
                yield path
