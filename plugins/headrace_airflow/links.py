"""Buttons on a task in Airflow's UI: the gate's page, the artifact's manifest."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

PAGES_PREFIX = "/headrace"


class GateReportLink(BaseOperatorLink):
    """Open the gate's page, also when the gate refused."""

    name = "Gate report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the page's address, or nothing while there is no report."""
        del ti_key
        address = operator.sealed_address
        return f"{_base_url()}{PAGES_PREFIX}/reports/{address}/report.html" if address else ""


class ArtifactLink(BaseOperatorLink):
    """Open the manifest of what the task sealed."""

    name = "Artifact"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the manifest's address, or nothing while there is none."""
        del ti_key
        address = operator.sealed_address
        return f"{_base_url()}{PAGES_PREFIX}/artifacts/{address}/manifest.json" if address else ""


def _base_url() -> str:
    return str(conf.get("api", "base_url", fallback="")).rstrip("/")
