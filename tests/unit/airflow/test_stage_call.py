from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from headrace_airflow.release_form import pinned_champion
from headrace_airflow.stage_call import StageCall, StageEnd, conclude, last_word

from tasks.contracts.artifacts import termination_sentence
from tasks.contracts.requests import Champion, ReleaseRequest, plan_named
from tasks.contracts.stages import Stage

STAGE = Stage.BUILD_FEATURES


def sealed(sealer: Any) -> Any:
    return sealer.seal(STAGE, {"profile.json": "{}"})


def test_sealed_work_gives_its_address(sealer: Any, task_instance: Any) -> None:
    manifest = sealed(sealer)
    end = StageEnd(exit_code=0, sentence=termination_sentence(manifest, "done"))
    assert conclude(STAGE, end, sealer.store, task_instance) == str(manifest.address)
    assert task_instance.pushed == {}


def test_exit_code_0_without_evidence_is_not_green(sealer: Any, task_instance: Any) -> None:
    end = StageEnd(exit_code=0, sentence="all went well")
    with pytest.raises(AirflowException, match=r"not green.*found none"):
        conclude(STAGE, end, sealer.store, task_instance)


def test_a_claim_without_a_manifest_is_not_green(sealer: Any, task_instance: Any) -> None:
    sentence = f"sealed feature_set/{'a' * 64} manifest sha256:{'b' * 64} | done"
    with pytest.raises(AirflowException, match=r"not green.*no manifest\.json"):
        conclude(STAGE, StageEnd(exit_code=0, sentence=sentence), sealer.store, task_instance)


def test_another_manifest_digest_is_not_green(sealer: Any, task_instance: Any) -> None:
    manifest = sealed(sealer)
    sentence = f"sealed {manifest.address} manifest sha256:{'b' * 64} | done"
    with pytest.raises(AirflowException, match=r"not green.*manifest digest"):
        conclude(STAGE, StageEnd(exit_code=0, sentence=sentence), sealer.store, task_instance)


def test_another_stages_artifact_is_not_green(sealer: Any, task_instance: Any) -> None:
    manifest = sealer.seal(Stage.TRAIN_MODEL, {"model.json": "{}"})
    end = StageEnd(exit_code=0, sentence=termination_sentence(manifest, "done"))
    with pytest.raises(AirflowException, match="stage: expected build_features"):
        conclude(STAGE, end, sealer.store, task_instance)


@pytest.mark.parametrize("damage", ("shorten", "remove"))
def test_a_payload_of_another_size_is_not_green(
    sealer: Any, task_instance: Any, damage: str
) -> None:
    manifest = sealed(sealer)
    folder = sealer.folder / "store" / str(manifest.address) / manifest.payload_folder
    victim = folder / "profile.json"
    victim.chmod(0o600)
    folder.chmod(0o700)
    if damage == "shorten":
        victim.write_text("{")
    else:
        victim.unlink()
    end = StageEnd(exit_code=0, sentence=termination_sentence(manifest, "done"))
    with pytest.raises(AirflowException, match=r"profile\.json.*expected 2"):
        conclude(STAGE, end, sealer.store, task_instance)


def test_a_refusing_gate_is_never_retried_and_its_report_can_be_found(
    sealer: Any, task_instance: Any
) -> None:
    manifest = sealer.seal(Stage.GATE_ARTIFACT, {"report.html": "<p>no</p>"})
    sentence = termination_sentence(manifest, "Gate 'feature_set' refused")
    with pytest.raises(AirflowFailException, match="^Gate 'feature_set' refused$"):
        conclude(
            Stage.GATE_ARTIFACT,
            StageEnd(exit_code=3, sentence=sentence),
            sealer.store,
            task_instance,
        )
    assert task_instance.pushed == {
        "return_value": str(manifest.address),
        "refusal": "Gate 'feature_set' refused",
    }


@pytest.mark.parametrize(
    ("exit_code", "retried"),
    (
        pytest.param(1, True, id="a crash is retried"),
        pytest.param(-9, True, id="a kill is retried"),
        pytest.param(137, True, id="an unknown code is retried"),
        pytest.param(3, False, id="a refusal is not"),
        pytest.param(4, False, id="a bad request is not"),
    ),
)
def test_exit_codes_decide_about_retries(
    sealer: Any, task_instance: Any, exit_code: int, retried: bool
) -> None:
    with pytest.raises(AirflowException) as caught:
        conclude(STAGE, StageEnd(exit_code=exit_code, sentence="why"), sealer.store, task_instance)
    assert isinstance(caught.value, AirflowFailException) is not retried
    assert "why" in str(caught.value)


def test_of_several_tasks_the_last_one_that_made_something_is_read(task_instance: Any) -> None:
    first, second = f"step_verdict/{'1' * 64}", f"step_verdict/{'2' * 64}"
    task_instance.pulled = {"step_1.judge_step": first, "step_2.judge_step": second}
    ids = tuple(f"step_{step}.judge_step" for step in range(1, 9))
    call = StageCall(stage=Stage.PROMOTE_RELEASE, reads={"verdict": ids, "slot": ("stage_bundle",)})
    request = call.request({"ti": task_instance}, "file:///store")
    assert request.reads == {"verdict": second}


def test_the_champion_is_read_as_it_was_pinned(sealer: Any, task_instance: Any) -> None:
    bundle = f"serving_bundle/{'c' * 64}"
    release = ReleaseRequest(
        release_id="r1",
        model="recommender",
        dataset="ml-1m",
        as_of="2026-01-31T00:00:00Z",
        recipe="markov",
        compression="int8",
        plan=plan_named("replay"),
        champion=Champion(release_number=1, release_id="r0", bundle=bundle),
    )
    request = sealer.seal(Stage.REQUEST_RELEASE, {"request.json": release.to_text()})
    task_instance.pulled = {"request_release": str(request.address)}
    call = StageCall(
        stage=Stage.EVALUATE_MODEL, release="request_release", reads_from=pinned_champion
    )
    assert call.request({"ti": task_instance}, sealer.url).reads == {"champion": bundle}


def test_a_rule_that_gives_a_reason_skips(task_instance: Any) -> None:
    call = StageCall(stage=STAGE, skip_when=lambda _: "nothing to do")
    request = call.request({"ti": task_instance}, "file:///store")
    with pytest.raises(AirflowSkipException, match="nothing to do"):
        call.skip_if_told(request, {"ti": task_instance})


@pytest.mark.parametrize(
    ("fails_nothing", "error", "tries", "expected"),
    (
        pytest.param(False, AirflowException("away"), 3, AirflowException, id="others fail"),
        pytest.param(True, AirflowException("away"), 1, AirflowException, id="a try is left"),
        pytest.param(True, AirflowException("away"), 3, AirflowSkipException, id="the last try"),
        pytest.param(
            True, AirflowFailException("no"), 1, AirflowSkipException, id="no retry helps"
        ),
    ),
)
def test_a_mirror_that_fails_for_good_is_skipped(
    task_instance: Any,
    fails_nothing: bool,
    error: AirflowException,
    tries: int,
    expected: type[AirflowException],
) -> None:
    task_instance.try_number = tries
    call = StageCall(stage=Stage.MIRROR_RELEASE, fails_nothing=fails_nothing)
    assert type(last_word(call, error, task_instance, retries=2)) is expected
