"""The DAG `hotfix_stable` as Airflow has it: its operator runs the stage against real slots."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="headrace-airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")

from airflow.sdk.exceptions import AirflowFailException
from headrace_airflow.deployment import Deployment, Runtime
from headrace_airflow.local_stage_operator import LocalStageOperator
from headrace_airflow.release_form import bundle_of_hotfix, form_of_hotfix
from headrace_airflow.stage_call import REFUSAL_KEY, StageCall

from tasks.contracts.stages import Stage
from tasks.rollout.record import Colour
from tests.integration.serving.conftest import models, start_server  # noqa: F401  fixtures
from tests.integration.serving.test_hotfix import Shop, shop  # noqa: F401
from tests.integration.serving.test_stage_bundle import MODEL

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[3]
CALL = StageCall(
    stage=Stage.HOTFIX_STABLE, settings_from=form_of_hotfix, reads_from_run=bundle_of_hotfix
)


class TaskInstance:
    """What the operator asks of its task instance."""

    try_number = 1

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


@pytest.fixture
def operator(
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> LocalStageOperator:
    monkeypatch.setenv("HEADRACE_WORK", shop.environment["HEADRACE_WORK"])
    deployment = Deployment(
        runtime=Runtime.LOCAL,
        store_url=shop.store_url,
        state_dir=shop.state_dir,
        python=Path(sys.executable),
        stage_path=ROOT,
    )
    return LocalStageOperator(call=CALL, deployment=deployment, task_id="hotfix_stable")


def triggered_by(user: str, bundle: str) -> dict[str, Any]:
    run = SimpleNamespace(run_id="manual__1", triggering_user_name=user)
    form = {"model": MODEL, "bundle": bundle, "reason": "prices were wrong"}
    return {"ti": TaskInstance(), "dag_run": run, "params": form}


def test_a_person_replaces_stable_from_airflow_and_is_named_in_the_ledger(
    operator: LocalStageOperator,
    shop: Shop,  # noqa: F811
    models: Path,  # noqa: F811
) -> None:
    bundle = str(shop.sealed(models / "shop/bundle", passed=True))
    address = operator.execute(triggered_by("ann", bundle))
    assert address.startswith("hotfix/")
    entry = shop.state.history()[-1]
    assert (entry.kind, entry.who, entry.why) == (
        *("hotfixed", "person ann, run manual__1"),
        "prices were wrong",
    )
    assert shop.state.peek().roles.stable is Colour.VIOLET
    assert operator.execute(triggered_by("ann", bundle)) == address  # the task is cleared
    assert shop.state.history()[-1].sequence == entry.sequence


@pytest.mark.parametrize(
    ("bundle", "said"),
    (
        pytest.param("nonsense", "expected <kind>/<64 hex digits>", id="no address"),
        pytest.param("serving_bundle/" + "0" * 64, "0" * 64, id="a bundle that is not there"),
        pytest.param(None, "found only refusals", id="a bundle that its gate refused"),
    ),
)
def test_what_cannot_be_stable_fails_for_good_and_stable_stays(
    operator: LocalStageOperator,
    shop: Shop,  # noqa: F811
    models: Path,  # noqa: F811
    bundle: str | None,
    said: str,
) -> None:
    before = shop.state.peek().sequence
    named = bundle or str(shop.sealed(models / "shop/bundle", passed=False))
    context = triggered_by("ann", named)
    with pytest.raises(AirflowFailException, match=said):
        operator.execute(context)
    assert shop.state.peek().sequence == before
    if bundle is None:
        assert said in context["ti"].pushed[REFUSAL_KEY]
