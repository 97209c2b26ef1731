"""Predict: checks in the order of servables/tensorflow/predict_util.cc, then one session run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.serving.session import SavedModelSession, Signature
from tasks.serving.status import Code, ServingError, invalid_argument
from tasks.serving.tensors import TensorValue

DEFAULT_SIGNATURE = "serving_default"


def predict(
    session: SavedModelSession,
    signature_name: str,
    inputs: Mapping[str, bytes],
    output_filter: Sequence[str] = (),
    *,
    timeout_ms: int = 0,
) -> dict[str, TensorValue]:
    """Run one signature on TensorProto bytes by alias; an empty filter means every output."""
    name = signature_name or DEFAULT_SIGNATURE
    signature = session.signatures.get(name)
    if signature is None:
        message = f'Serving signature key "{name}" not found.'
        raise ServingError(Code.FAILED_PRECONDITION, message)
    feeds = _feeds(signature, inputs)
    outputs = _checked_filter(signature, output_filter) if output_filter else None
    return session.run(signature, feeds, outputs, timeout_ms=timeout_ms)


def _feeds(signature: Signature, inputs: Mapping[str, bytes]) -> Mapping[str, bytes]:
    if inputs.keys() == signature.inputs.keys():
        return inputs
    sent, needed = len(inputs), len(signature.inputs)
    if sent > needed or (sent < needed and not signature.defaults):
        raise _wrong_number(signature, inputs)
    feeds = {}
    for alias in signature.inputs:
        value = inputs.get(alias, signature.defaults.get(alias))
        if value is None:
            raise _missing(signature, alias, inputs)
        feeds[alias] = value
    return feeds


def _joined(names: Mapping[str, object] | set[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _wrong_number(signature: Signature, inputs: Mapping[str, bytes]) -> ServingError:
    extra = set(inputs) - set(signature.inputs)
    missing = set(signature.inputs) - set(inputs)
    return invalid_argument(
        f"input size does not match signature: {len(inputs)}!={len(signature.inputs)} "
        f"len({_joined(inputs)}) != len({_joined(signature.inputs)}). "
        f"Sent extra: {_joined(extra)}. Missing but required: {_joined(missing)}."
    )


def _missing(signature: Signature, alias: str, inputs: Mapping[str, bytes]) -> ServingError:
    return invalid_argument(
        f"Signature input alias: {alias}(feed name: {signature.inputs[alias].tensor_name}) not "
        "found in request and no default value provided. Inputs expected to be in the request "
        f"{_joined(inputs)}, or default input alias set: {','.join(sorted(signature.defaults))}"
    )


def _checked_filter(signature: Signature, output_filter: Sequence[str]) -> tuple[str, ...]:
    seen: set[str] = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in "
                f"the set {_joined(signature.outputs)}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return tuple(output_filter)
