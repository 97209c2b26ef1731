"""Classify, Regress and MultiInference: one string input of serialised Examples, fixed outputs.

Checks and texts follow servables/tensorflow/{classifier,regressor,multi_inference}.cc.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from tasks.serving import protos
from tasks.serving.predict import DEFAULT_SIGNATURE
from tasks.serving.session import SavedModelSession, Signature
from tasks.serving.status import Code, ServingError, invalid_argument
from tasks.serving.tensors import DataType, TensorValue

CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
INPUTS, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"


def classify(session: SavedModelSession, request: Any, timeout_ms: int = 0) -> Any:
    """Return the ClassificationResult of a ClassificationRequest."""
    signature = _signature(session, request.model_spec, "No signature was found with the name: ")
    _check_classify(signature)
    examples, count = example_tensor(request.input)
    outputs = session.run(signature, {INPUTS: examples}, timeout_ms=timeout_ms)
    return classification_result(count, outputs.get(CLASSES), outputs.get(SCORES))


def regress(session: SavedModelSession, request: Any, timeout_ms: int = 0) -> Any:
    """Return the RegressionResult of a RegressionRequest."""
    signature = _signature(session, request.model_spec, "No signature was found with the name: ")
    _check_regress(signature)
    examples, count = example_tensor(request.input)
    outputs = session.run(signature, {INPUTS: examples}, timeout_ms=timeout_ms)
    return regression_result(count, outputs[OUTPUTS])


def multi_inference(
    session: SavedModelSession, version: int | None, request: Any, timeout_ms: int = 0
) -> Any:
    """Return the MultiInferenceResponse: every task in one session run."""
    signatures = _task_signatures(session, request.tasks)
    examples, count = example_tensor(request.input)
    feeds = {signature.inputs[INPUTS].tensor_name: examples for signature in signatures}
    wanted = sorted({name for signature in signatures for name in _output_names(signature)})
    outputs = session.run_tensors(feeds, wanted, timeout_ms=timeout_ms)
    response = protos.inference.MultiInferenceResponse()
    for task, signature in zip(request.tasks, signatures, strict=True):
        found = {alias: outputs.get(end.tensor_name) for alias, end in signature.outputs.items()}
        result = response.results.add()
        if task.method_name == CLASSIFY_METHOD:
            classes = classification_result(count, found.get(CLASSES), found.get(SCORES))
            result.classification_result.CopyFrom(classes)
        else:
            result.regression_result.CopyFrom(regression_result(count, found[OUTPUTS]))
        fill_model_spec(result.model_spec, task.model_spec, version)
    return response


def fill_model_spec(answered: Any, asked: Any, version: int | None) -> None:
    """Say which model, signature and version answered."""
    answered.name = asked.name
    answered.signature_name = asked.signature_name or DEFAULT_SIGNATURE
    if version is not None:
        answered.version.value = version


def _signature(session: SavedModelSession, spec: Any, otherwise: str) -> Signature:
    name = spec.signature_name or DEFAULT_SIGNATURE
    signature = session.signatures.get(name)
    if signature is None:
        raise invalid_argument(otherwise + name)
    return signature


def _check_classify(signature: Signature) -> None:
    if len(signature.inputs) != 1:
        message = "Expected one input Tensor."
        raise invalid_argument(message)
    if len(signature.outputs) not in (1, 2):
        found = len(signature.outputs)
        raise invalid_argument(f"Expected one or two output Tensors, found {found}")
    if INPUTS not in signature.inputs:
        message = f"No classification inputs found in SignatureDef: {signature.proto}"
        raise invalid_argument(message)
    if not {CLASSES, SCORES} & set(signature.outputs):
        raise invalid_argument(
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or '
            f'"{SCORES}". Signature was: {signature.proto}'
        )


def _check_regress(signature: Signature) -> None:
    if len(signature.inputs) != 1:
        message = "Expected one input Tensor."
        raise invalid_argument(message)
    if len(signature.outputs) != 1:
        message = "Expected one output Tensor."
        raise invalid_argument(message)
    if INPUTS not in signature.inputs:
        message = f"No regression inputs found in SignatureDef: {signature.proto}"
        raise invalid_argument(message)
    if OUTPUTS not in signature.outputs:
        message = f"No regression outputs found in SignatureDef: {signature.proto}"
        raise invalid_argument(message)


def _task_signatures(session: SavedModelSession, tasks: Sequence[Any]) -> list[Signature]:
    signatures: list[Signature] = []
    seen: set[str] = set()
    for task in tasks:
        spec = task.model_spec
        if not spec.name:
            message = "Found ModelSpec with an empty model name."
            raise invalid_argument(message)
        if spec.name != tasks[0].model_spec.name:
            raise invalid_argument(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = spec.signature_name or DEFAULT_SIGNATURE
        if name in seen:
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        signature = _signature(session, spec, "Requested signature not found in model graph: ")
        _check_task(task.method_name, signature)
        signatures.append(signature)
    return signatures


def _check_task(method_name: str, signature: Signature) -> None:
    if method_name == CLASSIFY_METHOD:
        _check_classify(signature)
    elif method_name == REGRESS_METHOD:
        _check_regress(signature)
    else:
        message = f"Unsupported signature method_name: {method_name}"
        raise ServingError(Code.UNIMPLEMENTED, message)


def _output_names(signature: Signature) -> list[str]:
    return [
        endpoint.tensor_name
        for alias, endpoint in signature.outputs.items()
        if alias in (CLASSES, SCORES, OUTPUTS)
    ]


def example_tensor(given: Any) -> tuple[bytes, int]:
    """Return TensorProto bytes [n] of serialised Examples, and n.

    A context's bytes stand before each example's: on parsing, the example wins for a same key.
    """
    if given.WhichOneof("kind") == "example_list_with_context":
        context = given.example_list_with_context.context.SerializeToString()
        examples = [
            context + example.SerializeToString()
            for example in given.example_list_with_context.examples
        ]
    else:
        examples = [example.SerializeToString() for example in given.example_list.examples]
    if not examples:
        message = "Input is empty."
        raise invalid_argument(message)
    tensor = protos.TensorProto(dtype=DataType.STRING, string_val=examples)
    tensor.tensor_shape.dim.add(size=len(examples))
    return bytes(tensor.SerializeToString()), len(examples)


def _floats(value: TensorValue) -> tuple[float, ...]:
    return struct.unpack(f"<{len(value.data) // 4}f", value.data)


def _shape_text(value: TensorValue) -> str:
    return f"[{','.join(map(str, value.shape))}]"


def _check_matrix(value: TensorValue, name: str, dtype: DataType, count: int) -> None:
    if len(value.shape) != 2:
        found = _shape_text(value)
        raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {found}")
    if value.dtype != dtype:
        found = f"DT_{DataType(value.dtype).name}"
        raise invalid_argument(f"Expected {name} Tensor of DT_{dtype.name}. Got: {found}")
    if value.shape[0] != count:
        raise invalid_argument(
            f"Expected {name} output batch size of {count}. Got: {value.shape[0]}"
        )


def classification_result(
    count: int, classes: TensorValue | None, scores: TensorValue | None
) -> Any:
    """Return the ClassificationResult; what is missing is an empty label or a score of 0."""
    if classes is not None:
        _check_matrix(classes, CLASSES, DataType.STRING, count)
    if scores is not None:
        _check_matrix(scores, SCORES, DataType.FLOAT, count)
    widths = [value.shape[1] for value in (classes, scores) if value is not None]
    if len(set(widths)) > 1:
        raise invalid_argument(
            f"Tensors class and score should match in dim_size(1). Got {widths[0]} vs. {widths[1]}"
        )
    width = widths[0] if widths else 0
    numbers = _floats(scores) if scores is not None else ()
    result = protos.classification.ClassificationResult()
    for row in range(count):
        added = result.classifications.add()
        for place in range(row * width, (row + 1) * width):
            one = added.classes.add()
            if classes is not None:
                one.label = classes.strings[place].decode("utf-8", "replace")
            if numbers:
                one.score = numbers[place]
    return result


def regression_result(count: int, value: TensorValue | None) -> Any:
    """Return the RegressionResult of an output [n] or [n, 1]."""
    if value is None:
        message = "Could not find output tensor"
        raise invalid_argument(message)
    if len(value.shape) != 1 and (len(value.shape) != 2 or value.shape[1] != 1):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            + _shape_text(value)
        )
    if value.shape[0] != count:
        raise invalid_argument(
            f"Input batch size did not match output batch size: {count} vs. {value.shape[0]}"
        )
    if value.dtype != DataType.FLOAT:
        found = f"DT_{DataType(value.dtype).name}"
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {found}")
    result = protos.regression.RegressionResult()
    for number in _floats(value):
        result.regressions.add(value=number)
    return result
