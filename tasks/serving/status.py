"""Canonical status codes, the error that carries one, and their HTTP and gRPC faces."""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType

GRPC_MESSAGE_LIMIT = 1024  # model_servers/grpc_status_util.cc


class Code(IntEnum):
    """The canonical codes: equal numbers in absl, gRPC and tensorflow.error."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_HTTP_STATUS = MappingProxyType(
    {
        Code.OK: 200,
        Code.CANCELLED: 499,
        Code.INVALID_ARGUMENT: 400,
        Code.DEADLINE_EXCEEDED: 504,
        Code.NOT_FOUND: 404,
        Code.ALREADY_EXISTS: 409,
        Code.PERMISSION_DENIED: 403,
        Code.RESOURCE_EXHAUSTED: 429,
        Code.FAILED_PRECONDITION: 400,
        Code.ABORTED: 409,
        Code.OUT_OF_RANGE: 400,
        Code.UNIMPLEMENTED: 501,
        Code.UNAVAILABLE: 503,
        Code.UNAUTHENTICATED: 401,
    }
)


class ServingError(Exception):
    """A refused request: canonical code and the text that the client sees."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        """Return `CODE_NAME: text`, as absl::Status::ToString does."""
        return f"{self.code.name}: {self.message}"


def invalid_argument(message: str) -> ServingError:
    """Return the error for a request that can never succeed as it is."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """Return the error for a model, version or signature that is not there."""
    return ServingError(Code.NOT_FOUND, message)


def http_status(code: Code) -> int:
    """Return the HTTP status of a canonical code; what has none of its own is 500."""
    return _HTTP_STATUS.get(code, 500)


def grpc_message(message: str) -> str:
    """Cut an error text as the real server does."""
    if len(message) <= GRPC_MESSAGE_LIMIT:
        return message
    return message[:GRPC_MESSAGE_LIMIT] + "...TRUNCATED"
