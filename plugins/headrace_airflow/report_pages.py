"""Pages behind the buttons of a task: gate reports and manifests, read from the store."""

from __future__ import annotations

from typing import Annotated

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, HTTPException, Path, Response

from headrace_airflow.deployment import the_deployment
from headrace_airflow.sealed_store import NotSealedError, SealedStore
from tasks.contracts.artifacts import Address
from tasks.contracts.gate_reports import PAGE_NAME
from tasks.contracts.stages import ArtifactKind

Key = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]

# A report holds text from events and models: no script of it ever runs.
SAFE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "sandbox allow-popups",
    "X-Content-Type-Options": "nosniff",
}

pages = FastAPI(title="Headrace", dependencies=[Depends(get_user)])


def the_store() -> SealedStore:
    """Return the deployment's store."""
    return SealedStore(url=the_deployment().store_url)


Store = Annotated[SealedStore, Depends(the_store)]


@pages.get("/reports/gate_report/{key}/report.html")
def gate_report(key: Key, store: Store) -> Response:
    """Return the page of a gate."""
    address = Address(kind=ArtifactKind.GATE_REPORT, key=key)
    try:
        page = store.payload(address, PAGE_NAME)
    except NotSealedError as error:
        raise HTTPException(status_code=404, detail=str(error)) from error
    return Response(content=page, media_type="text/html", headers=SAFE_HEADERS)


@pages.get("/artifacts/{kind}/{key}/manifest.json")
def manifest(kind: ArtifactKind, key: Key, store: Store) -> Response:
    """Return the manifest of an artifact."""
    try:
        found = store.manifest(Address(kind=kind, key=key))
    except NotSealedError as error:
        raise HTTPException(status_code=404, detail=str(error)) from error
    return Response(content=found.to_text(), media_type="application/json", headers=SAFE_HEADERS)
