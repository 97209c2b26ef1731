"""Which gRPC statuses are a server's fault: by gRPC, a failed request has HTTP's code 200 as well."""

from __future__ import annotations

# Numbers of grpc/status.h. OK, CANCELLED, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS,
# PERMISSION_DENIED, FAILED_PRECONDITION, OUT_OF_RANGE and UNAUTHENTICATED: good, or the caller's.
_NOT_THE_SERVERS = frozenset({0, 1, 3, 5, 6, 7, 9, 11, 16})


def is_servers_fault(status: int) -> bool:
    """Return whether a status is an error of the server; a number that gRPC does not know is."""
    return status not in _NOT_THE_SERVERS
