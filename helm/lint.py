"""`helm lint --strict` of the chart with every file of its `ci/`: `python helm/lint.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import helm_python

CHART = Path(__file__).resolve().parent / "headrace"
WARNING = 2  # severities of `helm lint`: 1 info, 2 warning, 3 error


def complaints(chart: Path, kube_version: str = "v1.29.0") -> Iterator[str]:
    """Yield what `helm lint --strict` fails for, one sentence each, with the values it was given."""
    files = sorted((chart / "ci").glob("*-values.yaml"))
    if not files:
        yield f"{chart}/ci: expected NN-case-values.yaml files, found none"
    for file in files:
        values = helm_python.values_from_yaml(file.read_text(encoding="utf-8"))
        found = helm_python.lint(
            chart, values, strict=True, namespace="shop", kube_version=kube_version
        )
        for message in found["messages"]:
            if message["severity"] >= WARNING:
                yield f"{file.name}: {message['path']}: {message['error']}"


def main() -> int:
    """Print the complaints; 1: there are some."""
    found = list(complaints(CHART))
    print("\n".join(found) or f"helm lint --strict: nothing to say about {CHART.name}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
