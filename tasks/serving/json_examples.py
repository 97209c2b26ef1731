"""Classify and Regress bodies: JSON objects -> tf.Example, as util/json_tensor.cc reads them."""

from __future__ import annotations

from typing import Any

from tasks.serving.json_tensors import decode_base64, is_base64, json_type
from tasks.serving.json_write import debug_text
from tasks.serving.protos import Example
from tasks.serving.status import ServingError, invalid_argument

_INT64 = 1 << 63


def read_examples(body: Any, given: Any) -> None:
    """Fill an Input message from a parsed body's `context` and `examples`."""
    has_context = "context" in body
    if has_context:
        context = given.example_list_with_context.context
        context.CopyFrom(_example(body["context"]))
    if "examples" not in body:
        raise _format_error(
            body, "When method is classify, key 'examples' is expected and was not found"
        )
    examples = body["examples"]
    if not isinstance(examples, list):
        raise _format_error(body, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise _format_error(body, "'examples' value is an empty array")
    target = given.example_list_with_context if has_context else given.example_list
    for example in examples:
        target.examples.append(_example(example))


def _format_error(value: Any, text: str) -> ServingError:
    return invalid_argument(f"JSON Value: {debug_text(value)} {text}")


def _example(value: Any) -> Any:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {json_type(value)}")
    example = Example()
    for name, content in value.items():
        feature = example.features.feature[name]
        feature.SetInParent()
        for element in content if isinstance(content, list) else [content]:
            _add(feature, name, element)
    return example


def _add(feature: Any, name: str, element: Any) -> None:
    kind, value = _typed(name, element)
    found = feature.WhichOneof("kind")
    if found not in (None, kind):
        expected = found.removesuffix("_list")
        raise invalid_argument(
            f"Unexpected element type in feature: {name} expecting type: {expected}"
        )
    getattr(feature, kind).value.append(value)


def _typed(name: str, element: Any) -> tuple[str, Any]:
    """Return the list of a Feature that an element belongs to, and the value in it."""
    if isinstance(element, bool):
        return "int64_list", int(element)
    if isinstance(element, str):
        return "bytes_list", element.encode("utf-8", "surrogateescape")
    if isinstance(element, int) and -_INT64 <= element < 2 * _INT64:
        if element >= _INT64:
            raise invalid_argument(
                f"Feature: {name} has uint64_t element. Only int64_t is supported."
            )
        return "int64_list", element
    if isinstance(element, int | float):
        return "float_list", float(element)
    if is_base64(element):
        return "bytes_list", decode_base64(element)
    raise invalid_argument(
        f"Feature: {name} has element with unexpected JSON type: {json_type(element)}"
    )
