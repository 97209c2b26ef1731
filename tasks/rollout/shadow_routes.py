"""How a sample of live requests is mirrored to the comparator, whose answers Envoy discards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import check_format, parse_object, pretty_json

CLUSTER = "shadow"
RUNTIME_KEY = "headrace.shadow"  # Envoy's runtime may say another share, of a million
MOST_AT_A_TIME = 64  # mirrored requests: a comparator that hangs holds no more of Envoy than these
MILLION = 1_000_000
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, kw_only=True)
class ShadowAddress:
    """Where the comparator listens, and the share of requests that it is sent."""

    port: int
    percent: float
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not 0 <= self.percent <= 100:
            message = f"shadow: expected a percentage from 0 to 100, found {self.percent!r}"
            raise BadRequestError(message)

    def to_text(self) -> str:
        """Return `shadow.json` as text."""
        fields = {"host": self.host, "port": self.port, "percent": self.percent}
        return pretty_json({"format": "shadow_address/1", **fields})


def read_shadow(path: Path) -> ShadowAddress | None:
    """Return what the comparator said of itself when it began to listen; None before."""
    try:
        record: Any = parse_object(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    check_format(record, "shadow_address", 1, str(path))
    try:
        return ShadowAddress(
            host=str(record["host"]), port=int(record["port"]), percent=float(record["percent"])
        )
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path}: expected host, port and percent of the comparator, found: {error!r}"
        raise BadRequestError(message) from error


def shadow_cluster(address: ShadowAddress) -> dict[str, Any]:
    """Return the comparator's cluster: what is too much for it is dropped, nobody waits."""
    socket = {"address": address.host, "port_value": address.port}
    endpoint = {"endpoint": {"address": {"socket_address": socket}}}
    most = {
        "max_connections": MOST_AT_A_TIME,
        "max_pending_requests": MOST_AT_A_TIME,
        "max_requests": MOST_AT_A_TIME,
        "max_retries": 0,
    }
    return {
        "name": CLUSTER,
        "type": "STATIC",
        "connect_timeout": "0.1s",
        "load_assignment": {
            "cluster_name": CLUSTER,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        "typed_extension_protocol_options": {
            _OPTIONS: {
                "@type": f"type.googleapis.com/{_OPTIONS}",
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "circuit_breakers": {"thresholds": [most]},
    }


def mirrored(address: ShadowAddress) -> list[dict[str, Any]]:
    """Return the mirror policy of a route."""
    share = {"numerator": round(address.percent / 100 * MILLION), "denominator": "MILLION"}
    fraction = {"default_value": share, "runtime_key": RUNTIME_KEY}
    return [{"cluster": CLUSTER, "runtime_fraction": fraction}]
