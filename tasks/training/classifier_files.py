"""The payload of a trained classifier: model, baselines, curve, report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.numpy import save

from tasks.contracts.columns import Period
from tasks.contracts.json_types import Json, pretty_json
from tasks.models.pictures import Pictures
from tasks.training.make_classifier import Classifier, parameters_of

REPORT_FORMAT = "classifier_report/1"


def write_classifier(
    out: Path,
    recipe: str,
    pictures: Pictures,
    model: Classifier,
    baselines: Mapping[str, Classifier],
) -> dict[str, Json]:
    """Write the whole payload below `out`; return the report."""
    save_classifier(model, out, "model")
    for name, made in baselines.items():
        save_classifier(made, out / "baselines", name)
    curve: list[Json] = [dict(vars(point)) for point in model.curve]
    _write(out / "curve.json", {"format": "learning_curve/1", "epochs": curve})
    arrays = model.tensors().values()
    accuracies: dict[str, Json] = {
        name: round(made.select_accuracy(pictures), 6)
        for name, made in {"model": model, **baselines}.items()
    }
    report: dict[str, Json] = {
        "format": REPORT_FORMAT,
        "recipe": recipe,
        "architecture": model.architecture,
        "class_names": list(pictures.class_names),
        "side": int(pictures.images.shape[1]),
        "parameters": parameters_of(model),
        "numbers": sum(array.size for array in arrays),
        "fp32_bytes": sum(array.nbytes for array in arrays),
        "select_accuracy": accuracies,
        "select_pictures": len(pictures.rows(Period.SELECT)),
    }
    _write(out / "report.json", report)
    return report


def save_classifier(made: Classifier, folder: Path, name: str) -> None:
    """Write `<name>.json` and `<name>.safetensors`; equal classifiers give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Json] = {
        "format": "model/1",
        "architecture": made.architecture,
        "arguments": dict(made.arguments),
    }
    _write(folder / f"{name}.json", record)
    tensors = made.tensors()
    (folder / f"{name}.safetensors").write_bytes(save(dict(sorted(tensors.items()))))


def _write(path: Path, record: dict[str, Json]) -> None:
    path.write_text(pretty_json(record), encoding="utf-8")
