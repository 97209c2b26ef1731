"""A classifier from pictures to promotion: a first release, then a better one by traffic steps, and its proof."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tasks.contracts.artifacts import Address
from tasks.contracts.json_types import parse_object
from tasks.contracts.stages import ArtifactKind, Stage
from tasks.rollout.exposures import read_lines, rollout_folder
from tasks.rollout.phases import Phase
from tests.faults.line import MODEL, Line, Release
from tests.faults.storefront import Storefront
from tests.integration.bundling.small_classifier import SIDE, make
from tests.integration.stores.whole_flow import (
    a_line,
    demand,
    headrace,
    release_by_steps,
    release_first,
    wait_until_answers,
)

pytestmark = [pytest.mark.trial, pytest.mark.timeout(1200)]
FIRST, SECOND = "majority", "means"
PLANNED = 2000  # pictures of ten classes that are kept for canary traffic


@pytest.fixture(scope="module")
def flow(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Line, Storefront, Release, Release]]:
    folder = tmp_path_factory.mktemp("pictures")
    make(folder)
    nothing = SimpleNamespace(as_of="2026-01-01T00:00:00Z", urls={})  # no events of a shop
    with a_line(folder / "line", HEADRACE_DATA=str(folder / "data")) as (line, front):
        front.settling = {"images": [[[0] * SIDE] * SIDE]}
        asked = {"dataset": "fashion-mnist", "plan": "replay-pictures"}
        first = line.request(FIRST, nothing, "majority_class", **asked)
        release_first(first, front)
        assert front.answers_of(first.path(ArtifactKind.SERVING_BUNDLE))
        second = line.request(SECOND, nothing, "class_means", **asked)
        release_by_steps(second, front)
        wait_until_answers(line.environment["HEADRACE_MLFLOW"])
        demand(second.pass_through(Stage.MIRROR_RELEASE))
        yield line, front, first, second


def test_the_better_classifier_is_promoted_by_what_it_named_rightly(flow) -> None:
    line, front, _, second = flow
    record = line.now()

    assert record.status.phase is Phase.SERVING
    assert record.stable is not None
    assert record.stable.release_id == SECOND
    assert front.answers_of(second.path(ArtifactKind.SERVING_BUNDLE))


def test_every_golden_picture_was_answered_by_both_protocols(flow) -> None:
    *_, second = flow
    infra = parse_object((second.path(ArtifactKind.STAGED_SLOT) / "infra.json").read_bytes(), "")

    for protocol in ("grpc", "rest"):
        assert infra[protocol]["n"] > 100
        assert (infra[protocol]["wrong"], infra[protocol]["failed"]) == (0, 0)


def test_each_picture_was_asked_once_and_judged_by_its_class(flow) -> None:
    _, front, _, second = flow
    verdict = parse_object(
        (second.path(ArtifactKind.STEP_VERDICT) / "verdict.json").read_bytes(), ""
    )
    traffic = rollout_folder(front.line.state_dir, MODEL, str(verdict["rollout"]))
    asked = [str(line["request_id"]) for line in read_lines(traffic / "outcomes.jsonl")]
    exposed = {str(line["request_id"]) for line in front.exposures(str(verdict["rollout"]))}

    assert len(asked) == len(set(asked)) == PLANNED
    assert set(asked) <= exposed  # beside them, what the storefront itself asked to see who serves
    assert verdict["outcome"] == "right class"
    assert verdict["effect"]["difference"] > 0.3
    assert any("right class per user" in sentence for sentence in verdict["sentences"])
    report = second.line.path(second.reports[ArtifactKind.STEP_VERDICT]) / "report.json"
    assert "right class not below stable's by a margin of 0.02" in report.read_text()


def test_the_release_is_proved_offline_and_mirrored(flow) -> None:
    line, _, _, second = flow

    said = headrace(line, "verify", "2", "--model", "shop")

    assert said.returncode == 0, said.stdout + said.stderr
    mirror = line.path(second.made[ArtifactKind.MIRROR]) / "mirror.json"
    assert parse_object(mirror.read_bytes(), "")["status"] == "mirrored"
    assert Address.parse(second.address).kind is ArtifactKind.RELEASE_REQUEST
