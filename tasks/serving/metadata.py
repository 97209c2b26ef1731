"""GetModelStatus and GetModelMetadata on messages: the same for gRPC and REST."""

from __future__ import annotations

from typing import Any

from tasks.serving.protos import model_metadata, model_status
from tasks.serving.server_core import ServerCore
from tasks.serving.status import invalid_argument, not_found
from tasks.serving.version_states import VersionId, VersionState

SIGNATURE_DEF = "signature_def"


def get_model_status(core: ServerCore, request: Any) -> Any:
    """Return GetModelStatusResponse: newest version first; a label is ignored."""
    _check_has_spec(request)
    spec = request.model_spec
    if not spec.HasField("version"):
        rows = core.board.rows(spec.name)
        if not rows:
            raise not_found(f"Could not find any versions of model {spec.name}")
    else:
        version = spec.version.value
        row = core.board.row(VersionId(name=spec.name, version=version))
        if row is None:
            raise not_found(f"Could not find version {version} of model {spec.name}")
        rows = [row]
    response = model_status.GetModelStatusResponse()
    for row in rows:
        _add_row(response, row)
    return response


def _add_row(response: Any, row: VersionState) -> None:
    added = response.model_version_status.add(version=row.id.version, state=row.state)
    added.status.SetInParent()
    if row.error is not None:
        added.status.error_code = row.error.code
        added.status.error_message = row.error.message


def get_model_metadata(core: ServerCore, request: Any) -> Any:
    """Return GetModelMetadataResponse with the signatures of the version that is meant."""
    _check_has_spec(request)
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != SIGNATURE_DEF:
            raise invalid_argument(f"Metadata field {name} is not supported")
    with core.borrow(request.model_spec) as served:
        signatures = model_metadata.SignatureDefMap()
        for name, signature in served.session.signatures.items():
            signatures.signature_def[name].CopyFrom(signature.proto)
    response = model_metadata.GetModelMetadataResponse()
    response.model_spec.name = served.id.name
    response.model_spec.version.value = served.id.version
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response


def _check_has_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
