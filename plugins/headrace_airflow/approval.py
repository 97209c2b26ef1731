"""A person decides before promotion, when the trigger form asked for it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from headrace_airflow.deployment import Deployment
from headrace_airflow.sealed_store import SealedStore

LONGEST_WAIT = timedelta(hours=24)


class PromotionApproval(ApprovalOperator):
    """Ask a person to approve; a rejection or no answer in a day fails, which rolls back."""

    def __init__(self, *, release: str, deployment: Deployment, **kwargs: Any) -> None:
        super().__init__(
            subject="Promote this release?",
            body="The gates and the traffic steps passed. Approve to promote; reject to roll back.",
            fail_on_reject=True,
            response_timeout=LONGEST_WAIT,
            retries=0,
            **kwargs,
        )
        self.release = release
        self.deployment = deployment

    def execute(self, context: Any) -> Any:
        """Wait for the answer, or skip where none was asked for."""
        store = SealedStore(url=self.deployment.store_url)
        address = str(context["ti"].xcom_pull(task_ids=self.release))
        if not store.release_request(address).approval:
            raise AirflowSkipException("no approval was asked for")
        return super().execute(context)
