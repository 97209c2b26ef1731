"""What other DAGs may wait for."""

from __future__ import annotations

from airflow.sdk import Asset

PROMOTED_RELEASE = Asset(name="promoted_release", uri="headrace://releases/promoted")
