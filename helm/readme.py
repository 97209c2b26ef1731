"""README.md of the chart, from the comments of values.yaml: `python helm/readme.py [--check]`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

CHART = Path(__file__).resolve().parent / "headrace"
MARK = "# -- "
_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z][\w.-]*):")
HEAD = """# Chart `headrace`

Slots, router with keeper, comparator, reaper, rights and limits of one deployment of Headrace; Airflow comes from its own chart
([airflow-values.yaml](../airflow-values.yaml)). Names are fixed (`headrace-...`): a namespace holds one release, stages' pods included.
Runbooks: [platform.md](../../docs/runbooks/platform.md); pods and rights: [cluster.md](../../docs/runbooks/cluster.md).

```console
$ helm install reco helm/headrace --namespace shop --create-namespace -f my-values.yaml
$ helm test reco --namespace shop
```

`my-values.yaml` says at least what [ci/01-smallest-values.yaml](ci/01-smallest-values.yaml) does. Unknown keys are refused, impossible
combinations too, with a sentence. Rendered objects are checked against the schemas of Kubernetes 1.29 and the newest; the cluster of the
tests is a 1.20.

## Values

Written by `python helm/readme.py` from `values.yaml`; a test compares.

| key | default | meaning |
|---|---|---|
"""


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A key with a text; the key is a path such as `store.url`."""

    key: str
    text: str


def explained(text: str) -> Iterator[Explained]:
    """Yield the keys of a values file that have a `# -- ` line right above them, in order."""
    path: list[tuple[int, str]] = []
    said = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(MARK):
            said = stripped.removeprefix(MARK)
            continue
        found = _KEY.match(line)
        if found is None:
            continue
        indent = len(found["indent"])
        path = [(depth, key) for depth, key in path if depth < indent]
        path.append((indent, found["key"]))
        if said:
            yield Explained(key=".".join(key for _, key in path), text=said)
        said = ""


def default_of(values: Any, key: str) -> str:
    """Return a key's default as a table shows it."""
    for name in key.split("."):
        values = values[name]
    text = yaml.safe_dump(values, default_flow_style=True, width=10_000, sort_keys=False)
    return f"`{text.removesuffix(chr(10)).removesuffix(chr(10) + '...')}`"


def readme(text: str) -> str:
    """Return README.md for the text of values.yaml."""
    values = yaml.safe_load(text)
    rows = (
        f"| `{one.key}` | {default_of(values, one.key)} | {one.text} |" for one in explained(text)
    )
    return HEAD + "\n".join(rows) + "\n"


def main(arguments: list[str]) -> int:
    """Write README.md; with --check only say whether it is up to date."""
    wanted = readme((CHART / "values.yaml").read_text(encoding="utf-8"))
    path = CHART / "README.md"
    if arguments == ["--check"]:
        if path.exists() and path.read_text(encoding="utf-8") == wanted:
            return 0
        print(
            f"{path}: expected what values.yaml says; run `python helm/readme.py`", file=sys.stderr
        )
        return 1
    path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
