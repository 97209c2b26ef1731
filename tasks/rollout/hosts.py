"""How Envoy finds a host: an address as it is, a name by DNS."""

from __future__ import annotations

import ipaddress
from typing import Any

_DNS = "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster"


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def found_by(host: str) -> dict[str, Any]:
    """Return a cluster's fields that find a host: a name may have several replicas, which come and go."""
    if is_address(host):
        return {"type": "STATIC"}
    # An endpoint for each address.
    dns = {"@type": _DNS, "dns_refresh_rate": "1s", "dns_lookup_family": "V4_PREFERRED"}
    return {"cluster_type": {"name": "envoy.clusters.dns", "typed_config": dns}}
