"""How a sample of live requests is mirrored to the comparator, whose answers Envoy discards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import check_format, parse_object, pretty_json
from tasks.rollout.hosts import found_by

CLUSTERS = MappingProxyType({"rest": "shadow", "grpc": "shadow.grpc"})
RUNTIME_KEY = "headrace.shadow"  # Envoy's runtime may say another share, of a million
MOST_AT_A_TIME = 64  # mirrored requests: a comparator that hangs holds no more of Envoy than these
MAX_BODY_BYTES = 256 * 1024
MILLION = 1_000_000
_HOST = re.compile(r"[A-Za-z0-9.:-]{1,253}")
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
# Without it Envoy reads a user's request no faster than the comparator takes its copy: one that
# hangs would stop all requests larger than the buffers between them.
# The buffer counts what comes piece by piece. A gRPC request that the router has read whole comes
# as one piece, and with its length as a header.
_DROP_IF_LONG = f"""
function envoy_on_request(handle)
  local length = tonumber(handle:headers():get("content-length"))
  if length and length > {MAX_BODY_BYTES} then handle:respond({{[":status"] = "413"}}, "") end
end
"""
_WHOLE_OR_DROPPED = [
    {
        "name": "envoy.filters.http.lua",
        "typed_config": {
            "@type": f"{_FILTERS}.lua.v3.Lua",
            "default_source_code": {"inline_string": _DROP_IF_LONG},
        },
    },
    {
        "name": "envoy.filters.http.buffer",
        "typed_config": {
            "@type": f"{_FILTERS}.buffer.v3.Buffer",
            "max_request_bytes": MAX_BODY_BYTES,
        },
    },
    {
        "name": "envoy.filters.http.upstream_codec",
        "typed_config": {"@type": f"{_FILTERS}.upstream_codec.v3.UpstreamCodec"},
    },
]


@dataclass(frozen=True, kw_only=True)
class ShadowAddress:
    """Where the comparator listens, and the share of requests that it is sent."""

    port: int  # for REST
    percent: float
    grpc: int | None = None  # a comparator of before takes no gRPC
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        """Refuse what Envoy would not take: it would take no other cluster with it."""
        if not _HOST.fullmatch(self.host) or not all(0 < port < 65_536 for port in self._ports):
            message = (
                "shadow: expected a host name or address with ports of 1 to 65535, found "
                f"{self.host!r:.80} with {self._ports}"
            )
            raise BadRequestError(message)
        if not 0 <= self.percent <= 100:
            message = f"shadow: expected a percentage from 0 to 100, found {self.percent!r}"
            raise BadRequestError(message)

    @property
    def _ports(self) -> list[int]:
        return list(self.ports.values())

    @property
    def ports(self) -> dict[str, int]:
        """Return the port of each protocol that it takes."""
        return {"rest": self.port, **({} if self.grpc is None else {"grpc": self.grpc})}

    def to_text(self) -> str:
        """Return `shadow.json` as text."""
        fields = {"host": self.host, "rest": self.port, "grpc": self.grpc, "percent": self.percent}
        return pretty_json({"format": "shadow_address/2", **fields})


def read_shadow(path: Path) -> ShadowAddress | None:
    """Return what the comparator said of itself when it began to listen; None before."""
    try:
        record: Any = parse_object(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    number = check_format(record, "shadow_address", 2, str(path))
    try:
        return ShadowAddress(
            host=str(record["host"]),
            port=int(record["port" if number == 1 else "rest"]),
            grpc=None if number == 1 or record["grpc"] is None else int(record["grpc"]),
            percent=float(record["percent"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path}: expected host, ports and percent of the comparator, found: {error!r}"
        raise BadRequestError(message) from error


def shadow_clusters(address: ShadowAddress) -> list[dict[str, Any]]:
    """Return the comparator's clusters: what is too much for it is dropped, nobody waits."""
    return [_cluster(address.host, port, protocol) for protocol, port in address.ports.items()]


def _cluster(host: str, port: int, protocol: str) -> dict[str, Any]:
    name = CLUSTERS[protocol]
    socket = {"address": host, "port_value": port}
    endpoint = {"endpoint": {"address": {"socket_address": socket}}}
    most = {
        "max_connections": MOST_AT_A_TIME,
        "max_pending_requests": MOST_AT_A_TIME,
        "max_requests": MOST_AT_A_TIME,
        "max_retries": 0,
    }
    kind = "http2_protocol_options" if protocol == "grpc" else "http_protocol_options"
    return {
        "name": name,
        **found_by(host),
        # An Envoy that starts waits for its clusters, and would wait for a name nobody resolves.
        "wait_for_warm_on_init": False,
        "connect_timeout": "0.1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        "typed_extension_protocol_options": {
            _OPTIONS: {
                "@type": f"type.googleapis.com/{_OPTIONS}",
                "explicit_http_config": {kind: {}},
                "http_filters": _WHOLE_OR_DROPPED,
            }
        },
        "circuit_breakers": {"thresholds": [most]},
    }


def mirrored(address: ShadowAddress, protocol: str) -> list[dict[str, Any]]:
    """Return the mirror policy of a protocol's routes; none where the comparator cannot take it."""
    if protocol not in address.ports:
        return []
    share = {"numerator": round(address.percent / 100 * MILLION), "denominator": "MILLION"}
    fraction = {"default_value": share, "runtime_key": RUNTIME_KEY}
    return [{"cluster": CLUSTERS[protocol], "runtime_fraction": fraction}]
