"""Registration only: Airflow imports this file in every process, so it imports nothing heavy."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from headrace_airflow.links import PAGES_PREFIX


async def pages_on_demand(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request for a page; the app is imported on the first one."""
    from headrace_airflow.report_pages import pages  # noqa: PLC0415  fastapi: API server only

    await pages(scope, receive, send)


class HeadracePlugin(AirflowPlugin):
    """The pages of gate reports and manifests."""

    name = "headrace"
    fastapi_apps: ClassVar[list[Any]] = [
        {"app": pages_on_demand, "url_prefix": PAGES_PREFIX, "name": "headrace"}
    ]
