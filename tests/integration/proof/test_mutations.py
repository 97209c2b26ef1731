"""Every single change of what a release reaches is found, and the file is named.

`make test` draws 100 changes, `make mutations` 1,000; the seed is fixed, and the draw of a failing
number is printed with it.
"""

from __future__ import annotations

import os
import random
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest

from tasks.cli.ledgers import named, readable_entries
from tasks.cli.verify import verify_release
from tests.integration.proof.mutations import random_mutation
from tests.unit.cli.conftest import MODEL, TinyReleases

RELEASE = "second"  # has a champion, traffic steps and verdicts
COUNT = int(os.environ.get("HEADRACE_MUTATIONS", "100"))
SEED = int(os.environ.get("HEADRACE_MUTATIONS_SEED", "7"))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> TinyReleases:
    tiny = TinyReleases(root=Path(tmp_path_factory.mktemp("mutations")))
    tiny.promote("first")
    tiny.promote(RELEASE)
    return tiny


def problems(tiny: TinyReleases) -> list[str]:
    release = named(readable_entries(tiny.state), RELEASE, MODEL)
    return verify_release(tiny.store, tiny.state, release).problems


def problems_or_crash(tiny: TinyReleases) -> list[str]:
    """A change on which verify falls over is a change that it has not named."""
    try:
        return problems(tiny)
    except Exception:  # noqa: BLE001  whatever it is
        return [traceback.format_exc(limit=-3)]


def reached_files(tiny: TinyReleases) -> list[Path]:
    """Every file of every artifact that the release reaches, its ledger and its state record."""
    first = {str(one.address) for one in tiny.made["first"].values()}
    champions = {
        str(one.address)
        for stage, one in tiny.made["first"].items()
        if stage.value in {"ingest_events", "build_features", "train_model", "compress_model"}
        or stage.value == "bundle_model"
    }
    others = first - champions
    folders = [
        tiny.folder_of(one)
        for one in tiny.sealed
        if str(one.address) not in others
        and not any(item.address in others for item in one.inputs.values())
    ]
    ledger = sorted((tiny.root / "store" / "ledger" / MODEL).iterdir())
    inside = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [*inside, *ledger, tiny.state.path]


def names(path: Path, tiny: TinyReleases, problem: str) -> bool:
    """A message names a file by its path, or by its artifact and its place in the payload."""
    if path == tiny.state.path:
        return str(path) in problem
    relative = path.relative_to(tiny.root / "store")
    kind, key, *rest = relative.parts
    if kind == "ledger":
        return relative.as_posix() in problem
    inside = "/".join(rest[1:]) if rest[0].startswith("payload-") else rest[0]
    return f"{kind}/{key}" in problem and inside in problem


def test_the_release_is_verified_before_anything_is_changed(released: TinyReleases) -> None:
    assert problems(released) == []
    kinds = {path.relative_to(released.root).parts[1] for path in reached_files(released)}
    assert {"traffic_step", "step_verdict", "gate_report", "release", "ledger"} <= kinds


@pytest.mark.timeout(3600)
def test_every_random_change_is_found_and_the_file_is_named(released: TinyReleases) -> None:
    chance, files = random.Random(SEED), reached_files(released)
    found: Counter[str] = Counter()
    began = time.monotonic()
    missed = []
    for number in range(COUNT):
        mutation = random_mutation(chance, files)
        with mutation.applied():
            said = problems_or_crash(released)
        crashed = said[:1] if said and said[0].startswith("Traceback") else []
        if not crashed and any(names(mutation.path, released, problem) for problem in said):
            found[mutation.kind] += 1
        else:
            missed.append((number, mutation.kind, mutation.path, mutation.detail, said[:3]))
    seconds = time.monotonic() - began
    table = ", ".join(f"{kind} {count}" for kind, count in sorted(found.items()))
    print(
        f"\nmutations: {found.total()} of {COUNT} found and named in {len(files)} files, "
        f"{seconds:.0f} s, seed {SEED} ({table})"
    )
    assert not missed, "\n".join(map(str, missed))
    assert problems(released) == []
