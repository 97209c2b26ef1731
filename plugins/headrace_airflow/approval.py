"""A person decides before promotion, when the trigger form asked for it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.exceptions import HITLRejectException, HITLTimeoutError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from headrace_airflow.deployment import Deployment
from headrace_airflow.rollout_record import read_now, record_place
from headrace_airflow.sealed_store import SealedStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.contracts.json_types import Json

APPROVAL = "approval"
ANSWER_KEY = "answer"  # XCom: who approved or rejected, and why
NO_REASON = "gave no reason"
LONGEST_REASON = 500
_REASON = {"type": "string", "maxLength": LONGEST_REASON, "title": "Reason, for the ledger"}
LONGEST_WAIT = timedelta(hours=24)


class PromotionApproval(ApprovalOperator):
    """Ask a person to approve; a rejection or no answer in a day fails, which rolls back.

    Any other failure is tried again, and the person is asked again: a task cannot read an answer
    that an earlier try was given.
    """

    def __init__(self, *, release: str, deployment: Deployment, **kwargs: Any) -> None:
        kwargs.pop("params", None)  # the trigger form's: Airflow merges them in once more
        super().__init__(
            subject="Promote this release?",
            body="The gates and the traffic steps passed. Approve to promote; reject to roll back.",
            fail_on_reject=True,
            response_timeout=LONGEST_WAIT,
            # It has a default because Airflow checks it also before anybody was asked.
            params={"reason": Param("", **_REASON, source="task")},
            **kwargs,
        )
        self.release = release
        self.deployment = deployment

    def execute(self, context: Any) -> Any:
        """Wait for the answer, or skip where none was asked for or the release serves already."""
        store = SealedStore(url=self.deployment.store_url)
        address = str(context["ti"].xcom_pull(task_ids=self.release))
        release = store.release_request(address)
        if not release.approval:
            raise AirflowSkipException("no approval was asked for")
        now = asyncio.run(read_now(record_place(self.deployment, release.model)))
        if now is not None and release.release_id in now.promoted:
            raise AirflowSkipException(f"{release.release_id} was promoted: nothing is to decide")
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Keep who answered and why; only a rejection and a day without answer fail for good."""
        if "error" not in event:
            event = {**event, "params_input": {"reason": _reason(event)}}
            answer = answer_of(event)
            self.log.info("%s by %s: %s", answer["chosen"], answer["who"], answer["reason"])
            context["ti"].xcom_push(key=ANSWER_KEY, value=answer)
        try:
            return super().execute_complete(context, event)
        except (HITLRejectException, HITLTimeoutError) as error:
            raise AirflowFailException(str(error)) from error


def answer_of(event: Mapping[str, Any]) -> dict[str, str]:
    """Return what a person chose, who it was, and why."""
    user = event.get("responded_by_user") or {}
    return {
        "chosen": str(event["chosen_options"][0]),
        "who": str(user.get("name") or user.get("id") or "unknown"),
        "reason": _reason(event) or NO_REASON,
    }


def _reason(event: Mapping[str, Any]) -> str:
    """Return the reason as the form allows it: over REST Airflow takes anything."""
    given = (event.get("params_input") or {}).get("reason")
    return "" if given is None else str(given)[:LONGEST_REASON]


def approved_by(context: Mapping[str, Any]) -> dict[str, Json]:
    """Return the settings of a promotion: who approved it and why, where somebody did.

    A rejection stays one, though the task is marked as a success.
    """
    answer = answer_in(context)
    if answer is None or answer["chosen"] != PromotionApproval.APPROVE:
        return {}
    return {"approved_by": answer["who"], "reason": f"approved: {answer['reason']}"}


def answer_in(context: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the answer that a person gave in this run."""
    answer = context["ti"].xcom_pull(task_ids=APPROVAL, key=ANSWER_KEY)
    return dict(answer) if answer else None
