from __future__ import annotations

from pathlib import Path

import pytest

from tasks.contracts.artifacts import (
    Address,
    FileEntry,
    InputReference,
    Manifest,
    artifact_key,
    content_digest,
    parse_termination,
    termination_sentence,
)
from tasks.contracts.errors import BadRequestError
from tasks.contracts.stages import ArtifactKind, Stage

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
EMPTY_SHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
FILES = (
    FileEntry(path="model/b.bin", size=0, sha256=EMPTY_SHA),
    FileEntry(path="a.json", size=0, sha256=EMPTY_SHA),
)
INPUTS = {
    "features": InputReference(address=f"feature_set/{'1' * 64}", content="2" * 64),
}
CONFIG = {"seed": 1, "recipe": "popularity"}


def manifest() -> Manifest:
    key = artifact_key(Stage.TRAIN_MODEL, INPUTS, CONFIG, "c" * 64)
    return Manifest(
        kind=ArtifactKind.TRAINED_MODEL,
        key=key,
        stage=Stage.TRAIN_MODEL,
        inputs=INPUTS,
        config=CONFIG,
        code="c" * 64,
        files=FILES,
        content=content_digest(FILES),
    )


def test_the_manifest_of_format_1_is_read_and_written_as_its_golden_file() -> None:
    golden = (GOLDEN / "manifest-1.json").read_text(encoding="utf-8")
    assert manifest().to_text() == golden
    assert Manifest.parse(golden, "golden").digest == manifest().digest


def test_the_order_in_which_files_are_listed_does_not_change_the_content_digest() -> None:
    assert content_digest(FILES) == content_digest(tuple(reversed(FILES)))


@pytest.mark.parametrize(
    ("stage", "inputs", "config", "code"),
    (
        pytest.param(Stage.COMPRESS_MODEL, INPUTS, CONFIG, "c" * 64, id="another stage"),
        pytest.param(Stage.TRAIN_MODEL, {}, CONFIG, "c" * 64, id="other inputs"),
        pytest.param(Stage.TRAIN_MODEL, INPUTS, {"seed": 2}, "c" * 64, id="another seed"),
        pytest.param(Stage.TRAIN_MODEL, INPUTS, CONFIG, "d" * 64, id="other code"),
    ),
)
def test_everything_that_could_change_the_result_changes_the_key(
    stage, inputs, config, code
) -> None:
    assert artifact_key(stage, inputs, config, code) != manifest().key


def test_the_place_of_an_input_does_not_change_the_key_but_its_bytes_do() -> None:
    moved = {"features": InputReference(address=f"feature_set/{'9' * 64}", content="2" * 64)}
    other = {"features": InputReference(address=f"feature_set/{'1' * 64}", content="3" * 64)}
    assert artifact_key(Stage.TRAIN_MODEL, moved, CONFIG, "c" * 64) == manifest().key
    assert artifact_key(Stage.TRAIN_MODEL, other, CONFIG, "c" * 64) != manifest().key


@pytest.mark.parametrize(
    ("before", "after", "named"),
    (
        pytest.param('"seed": 1', '"seed": 2', "field key", id="an edited configuration"),
        pytest.param('"size": 0', '"size": 7', "field content", id="an edited size"),
        pytest.param("manifest/1", "manifest/2", "manifest/1", id="a newer format"),
        pytest.param('"trained_model"', '"toast"', "toast", id="an unknown kind"),
    ),
)
def test_a_manifest_that_was_edited_is_refused_and_the_field_is_named(before, after, named) -> None:
    text = manifest().to_text().replace(before, after)
    with pytest.raises(BadRequestError, match=named):
        Manifest.parse(text, "store/manifest.json")


@pytest.mark.parametrize("path", ("/etc/passwd", "../up", "a//b", "a/./b", ""))
def test_a_payload_path_that_leaves_its_folder_is_refused(path: str) -> None:
    with pytest.raises(BadRequestError, match="plain relative path"):
        FileEntry(path=path, size=0, sha256=EMPTY_SHA)


@pytest.mark.parametrize("text", ("", "toast/" + "a" * 64, "feature_set/short", "feature_set/../x"))
def test_an_address_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError, match="artifact address"):
        Address.parse(text)


def test_the_termination_message_carries_evidence_that_the_operator_can_read_back() -> None:
    sealed = manifest()
    evidence = parse_termination(termination_sentence(sealed, "trained in 8 epochs"))
    assert evidence is not None
    assert (evidence.address, evidence.manifest_digest) == (sealed.address, sealed.digest)


def test_a_message_without_evidence_is_none() -> None:
    assert parse_termination("crashed: MemoryError") is None
