"""Which answers of an S3 store are worth asking again, and how often; imported for s3:// only."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
)
from s3fs.core import set_custom_error_handler

# Each request is sent up to so many times; the waits between are 0.1 s x 1.7^n, 5.7 s in all.
ATTEMPTS = 7
AGAIN_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
AGAIN_CODES = frozenset({"ConditionalRequestConflict", "OperationAborted", "RequestTimeout"})
WRITER = "headrace-writer"  # metadata of a conditional write: who wrote it
PRECONDITION_FAILED = 412


def make_patient(system: Any) -> None:
    """Let an S3 file system ask again as this file says; s3fs asks once each by itself."""
    system.retries = ATTEMPTS
    set_custom_error_handler(is_passing)


def is_passing(error: BaseException) -> bool:
    """Return whether the same request may well succeed in a moment."""
    if isinstance(error, ClientError):
        said = error.response.get("Error", {}).get("Code")
        return _status(error) in AGAIN_STATUS or said in AGAIN_CODES
    again = (
        ConnectionClosedError,
        ConnectTimeoutError,
        EndpointConnectionError,
        HTTPClientError,
        ConnectionError,
    )
    # What s3fs has translated already was asked again inside: not once more around it.
    return isinstance(error, again) and not isinstance(error.__cause__, ClientError)


def is_condition_failed(error: BaseException) -> bool:
    """Return whether If-None-Match found an object; stores differ in how much they say."""
    cause = error if isinstance(error, ClientError) else error.__cause__
    return isinstance(cause, ClientError) and _status(cause) == PRECONDITION_FAILED


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
