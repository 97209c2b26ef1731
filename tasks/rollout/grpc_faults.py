"""Which gRPC statuses are a server's fault: by gRPC, a failed request has HTTP's code 200 as well."""

from __future__ import annotations

# Numbers of grpc/status.h. OK, CANCELLED, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS,
# PERMISSION_DENIED, FAILED_PRECONDITION, OUT_OF_RANGE and UNAUTHENTICATED: good, or the caller's.
_NOT_THE_SERVERS = frozenset({0, 1, 3, 5, 6, 7, 9, 11, 16})
_LAST = 16
# UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE,
# DATA_LOSS.
SERVERS_FAULTS = frozenset(range(_LAST + 1)) - _NOT_THE_SERVERS
# A candidate that cancels, does not know the model or is in no state for it: stable may well answer.
ASKED_OF_STABLE = SERVERS_FAULTS | {1, 5, 9}


def is_servers_fault(status: int) -> bool:
    """Return whether a status is an error of the server; a number that gRPC does not know is."""
    return status not in _NOT_THE_SERVERS
