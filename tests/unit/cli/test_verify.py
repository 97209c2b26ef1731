from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tasks.cli.command import main
from tasks.cli.ledgers import named, readable_entries
from tasks.cli.rollout_proof import record_against_ledger, verdict_problems
from tasks.cli.verify import verify_release
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.requests import PLANS
from tasks.contracts.stages import Stage
from tasks.rollout.hotfix import apply_hotfix, reserve_hotfix

RELEASE = "first"


def problems(tiny) -> list[str]:
    release = named(readable_entries(tiny.state), RELEASE, tiny.state.model)
    return verify_release(tiny.store, tiny.state, release).problems


def test_an_untouched_release_is_verified_whole(tiny) -> None:
    tiny.promote(RELEASE)
    release = named(readable_entries(tiny.state), RELEASE, tiny.state.model)
    verdict = verify_release(tiny.store, tiny.state, release)
    assert verdict.problems == []
    assert verdict.artifacts == 9  # request, seven stages, release
    assert verdict.gates == 7


def test_without_a_name_what_serves_is_verified(
    tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tiny.home.root))
    monkeypatch.setenv("HEADRACE_STORE", tiny.home.store_url)
    tiny.promote("first")
    tiny.cut("second")
    assert main(["verify"]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert said.startswith("release 1 (first) verified: 9 artifacts")
    assert said.endswith("; it is what serves now\n")
    assert main(["verify", "2"]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert said.startswith("release 2 (second) verified: ")
    assert "serves now" not in said


def test_without_a_name_and_with_nothing_that_serves_a_name_is_asked_for(
    tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tiny.home.root))
    monkeypatch.setenv("HEADRACE_STORE", tiny.home.store_url)
    tiny.make("first", reserve=True)
    assert main(["verify"]) == ExitCode.BAD_REQUEST
    said = capsys.readouterr().err
    assert "recommender: expected a release that serves, found none" in said
    assert "`headrace verify NUMBER --model recommender` verifies one of the ledger" in said


def test_a_release_that_the_keeper_cut_is_verified_with_its_verdict(tiny) -> None:
    tiny.promote("first")
    verdict = tiny.cut("second")
    folder = tiny.folder_of(verdict) / verdict.payload_folder
    said = json.loads((folder / "verdict.json").read_text())
    assert said["decision"] == "roll_back"
    assert "cut by keeper" in said["sentences"][1]
    entries = tiny.state.history()
    assert [entry.kind for entry in entries][-2:] == ["cut", "rolled_back"]
    about = [entry for entry in entries if entry.release_id == "second"]
    assert record_against_ledger(tiny.store, verdict, about) == []
    assert verdict_problems(tiny.store, verdict, about) == []
    uncut = [entry for entry in about if entry.kind != "cut"]
    (problem,) = record_against_ledger(tiny.store, verdict, uncut)
    assert "expected a ledger entry judged or cut of step 1, found none" in problem


def test_a_hotfix_is_verified_back_to_the_events_of_the_release_that_made_its_bundle(
    tiny,
) -> None:
    tiny.promote("first")
    made = tiny.make("elsewhere")
    experiment = tiny.make("second", reserve=True)
    assert experiment
    tiny.state.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=150.0)
    bundle = made[Stage.BUNDLE_MODEL]
    reserved = reserve_hotfix(tiny.state, "fix", bundle=str(bundle.address))
    apply_hotfix(tiny.state, "fix", reserved.release_number)
    release = named(readable_entries(tiny.state), "fix", tiny.state.model)

    def found() -> list[str]:
        return verify_release(tiny.store, tiny.state, release).problems

    assert found() == []
    verdict = verify_release(tiny.store, tiny.state, release)
    # Events to bundle, of the hotfix and of what it replaced: its entry names both.
    assert (verdict.artifacts, verdict.gates) == (10, 10)
    entry = tiny.state.history()[-1]
    record = {
        "release_id": "fix",
        "release_number": entry.release_number,
        "instead_of": 1,
        "who": entry.who,
        "why": entry.why,
        "step": entry.step,
        "hotfixed_at": entry.at,
        "sequence": entry.sequence,
    }
    tiny.seal(Stage.HOTFIX_STABLE, {"hotfix.json": json.dumps(record)}, {"bundle": bundle})
    assert found() == []
    forged = json.dumps({**record, "who": "person bob"})
    tiny.seal(Stage.HOTFIX_STABLE, {"hotfix.json": forged}, {"bundle": bundle})
    (problem,) = found()
    assert f"hotfix.json: field who: expected {entry.who!r}, found 'person bob'" in problem
    path = tiny.folder_of(bundle) / bundle.payload_folder / "payload.txt"
    path.write_text("other bytes")
    assert any(f"{bundle.address}: file payload.txt" in line for line in found())


def test_a_flipped_byte_is_found_and_its_file_named(tiny) -> None:
    tiny.promote(RELEASE)
    model = tiny.made[RELEASE][Stage.TRAIN_MODEL]
    path = tiny.folder_of(model) / model.payload_folder / "payload.txt"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    found = problems(tiny)
    assert len(found) == 1
    assert f"{model.address}: file payload.txt: expected sha256" in found[0]


def test_every_single_flipped_byte_of_the_chain_is_named(tiny) -> None:
    tiny.promote(RELEASE)
    chance = random.Random(6)
    files = [
        path
        for path in (tiny.root / "store").rglob("*")
        if path.is_file() and path.name != "facts.json"
    ]
    for number in range(150):
        path = chance.choice(files)
        untouched = path.read_bytes()
        changed = bytearray(untouched)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        found = problems(tiny)
        assert any(_place_of(path) in problem for problem in found), (number, path, found)
        path.write_bytes(untouched)
    assert problems(tiny) == []


def _place_of(path: Path) -> str:
    """The artifact's key, or the ledger entry's file: what a message has to name."""
    keys = [part for part in path.parts if len(part) == 64]
    return keys[0] if keys else path.name


@pytest.mark.parametrize("stage", list(Stage)[1:8])
def test_a_missing_gate_report_is_named(tiny, stage: Stage) -> None:
    tiny.promote(RELEASE)
    artifact = tiny.made[RELEASE][stage]
    for manifest in (tiny.root / "store" / "gate_report").glob("*/manifest.json"):
        if str(artifact.address) in manifest.read_text():
            manifest.unlink()
    assert f"{artifact.address}: expected a gate report on its content, found none" in problems(
        tiny
    )


def test_a_refusing_gate_report_on_what_was_promoted_is_named(tiny) -> None:
    tiny.promote(RELEASE)
    artifact = tiny.made[RELEASE][Stage.TRAIN_MODEL]
    for manifest in (tiny.root / "store" / "gate_report").glob("*/manifest.json"):
        if str(artifact.address) in manifest.read_text():
            manifest.unlink()
    tiny.gate(artifact, passed=False)
    assert any("price: min 0 expected, -4.0 found" in problem for problem in problems(tiny))


def test_an_added_and_a_missing_file_are_named(tiny) -> None:
    tiny.promote(RELEASE)
    events = tiny.made[RELEASE][Stage.INGEST_EVENTS]
    (tiny.folder_of(events) / "more.bin").write_text("x")
    (tiny.folder_of(events) / events.payload_folder / "deep/more.txt").unlink()
    found = "\n".join(problems(tiny))
    assert "expected nothing beside manifest, facts and payload" in found
    assert "file deep/more.txt: expected 1 bytes, found no file" in found


def test_a_bundle_that_is_gone_is_named(tiny) -> None:
    tiny.promote(RELEASE)
    bundle = tiny.made[RELEASE][Stage.BUNDLE_MODEL]
    (tiny.folder_of(bundle) / "manifest.json").unlink()
    assert any(f"expected a sealed {bundle.address}" in problem for problem in problems(tiny))


def test_an_edited_ledger_entry_is_named(tiny) -> None:
    tiny.promote(RELEASE)
    path = min((tiny.root / "store" / "ledger").rglob("*.json"))
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({**entry, "why": "because"}))
    assert any(path.name in problem for problem in problems(tiny))


def test_a_promotion_without_its_sealed_release_is_named(tiny) -> None:
    release = tiny.promote(RELEASE)
    (tiny.folder_of(release) / "manifest.json").unlink()
    assert any(
        "expected a sealed release for what the ledger calls promoted" in problem
        for problem in problems(tiny)
    )


@pytest.mark.parametrize("name", (".scratch-evil", ".hidden", "deep/.scratch-more"))
def test_an_added_file_with_a_hidden_name_is_named(tiny, name: str) -> None:
    tiny.promote(RELEASE)
    model = tiny.made[RELEASE][Stage.TRAIN_MODEL]
    payload = tiny.folder_of(model) / model.payload_folder
    for place in (payload / name, tiny.folder_of(model) / name.replace("deep/", "")):
        place.write_text("x")
        assert any(
            place.name in problem and str(model.address) in problem for problem in problems(tiny)
        )
        place.unlink()
    stray = tiny.root / "store" / "ledger" / tiny.state.model / ".scratch-x"
    stray.write_text("x")
    assert any(".scratch-x: expected only entries of the ledger" in p for p in problems(tiny))


@pytest.mark.parametrize("target", ("itself", "nowhere", "folder"))
@pytest.mark.parametrize(
    "place", ("manifest.json", "facts.json", "payload/payload.txt", "payload/deep", "payload", ".")
)
def test_a_link_in_place_of_what_was_sealed_is_named(tiny, place: str, target: str) -> None:
    tiny.promote(RELEASE)
    model = tiny.made[RELEASE][Stage.TRAIN_MODEL]
    path = tiny.folder_of(model) / place.replace("payload", model.payload_folder, 1)
    path = path if not place.endswith("payload.txt") else path.with_name("payload.txt")
    aside = tiny.root / "aside"
    path.rename(aside)
    (tiny.root / "folder").mkdir()
    path.symlink_to(
        {"itself": aside, "nowhere": tiny.root / "x", "folder": tiny.root / "folder"}[target]
    )
    found = problems(tiny)
    assert any(str(model.address) in problem for problem in found), found


def test_an_added_link_is_named_in_an_artifact_and_in_the_ledger(tiny) -> None:
    tiny.promote(RELEASE)
    model = tiny.made[RELEASE][Stage.TRAIN_MODEL]
    folder = tiny.folder_of(model)
    for place in (folder / "dangling", folder / model.payload_folder / "dangling"):
        place.symlink_to("/nowhere")
        assert any(
            "dangling" in problem and str(model.address) in problem for problem in problems(tiny)
        )
        place.unlink()
    first = min((tiny.root / "store" / "ledger").rglob("*.json"))
    aside = first.rename(tiny.root / "aside")
    first.symlink_to(aside)
    assert any(f"{first.name}: expected a plain file" in problem for problem in problems(tiny))


def test_a_request_that_was_killed_before_its_seal_is_no_fault_of_its_champion(tiny) -> None:
    tiny.promote(RELEASE)
    request = tiny.make("next")[Stage.REQUEST_RELEASE]
    assert (
        RELEASE in (tiny.folder_of(request) / request.payload_folder / "request.json").read_text()
    )
    (tiny.folder_of(request) / "manifest.json").unlink()
    assert problems(tiny) == []


def test_a_removed_manifest_of_the_releases_own_request_is_named(tiny) -> None:
    tiny.promote(RELEASE)
    request = tiny.made[RELEASE][Stage.REQUEST_RELEASE]
    (tiny.folder_of(request) / "manifest.json").unlink()
    assert any(f"{request.address}/manifest.json" in problem for problem in problems(tiny))


def test_an_input_that_is_no_address_is_named_with_its_manifest(tiny) -> None:
    tiny.promote(RELEASE)
    features = tiny.made[RELEASE][Stage.BUILD_FEATURES]
    path = tiny.folder_of(features) / "manifest.json"
    (item,) = features.inputs.values()
    path.write_text(path.read_text().replace(item.address, f"{item.address[:-1]}m"))
    expected = f"{features.address}/manifest.json: input ingest_events: artifact address: expected"
    assert any(problem.startswith(expected) for problem in problems(tiny))
