"""What a stage sealed, read by Airflow: on file:// and on s3:// alike."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="headrace-airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")

from headrace_airflow.sealed_store import NotSealedError, SealedStore

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.artifacts import Address, parse_termination, termination_sentence
from tasks.contracts.stages import ArtifactKind, Stage

pytestmark = pytest.mark.integration


def test_airflow_finds_what_a_stage_sealed_and_only_that(store_url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "release.json").write_text('{"release_number": 7}')
    recipe = Recipe(
        kind=ArtifactKind.RELEASE,
        stage=Stage.PROMOTE_RELEASE,
        inputs={},
        config={},
        code="0" * 64,
    )
    airflow, said = SealedStore(url=store_url), Stage.PROMOTE_RELEASE
    absent = Address(kind=ArtifactKind.RELEASE, key=recipe.address.key)
    with pytest.raises(NotSealedError, match="found no manifest.json"):
        airflow.manifest(absent)  # and what was absent once is found later

    sealed = ArtifactStore(ObjectStore(store_url), cache=tmp_path / "cache").seal(recipe, out, {})
    evidence = parse_termination(termination_sentence(sealed, "promoted"))
    assert evidence is not None
    assert airflow.check(evidence, said) == sealed
    assert airflow.payload(sealed.address, "release.json") == b'{"release_number": 7}'

    with pytest.raises(NotSealedError, match="manifest digest: expected 0000"):
        airflow.check(replace(evidence, manifest_digest="0" * 64), said)
    folder = f"{sealed.address}/{sealed.payload_folder}"
    ObjectStore(store_url).remove_files(folder, ["release.json"])
    with pytest.raises(NotSealedError, match="release.json: expected 21 bytes, found no file"):
        airflow.check(evidence, said)
