"""What Envoy is told: a pure function from state records and slots to RDS and CDS resources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Literal

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, check_format, digest_of_json, parse_object
from tasks.rollout.hosts import found_by, is_address
from tasks.rollout.phases import Phase
from tasks.rollout.record import Colour, StateRecord
from tasks.rollout.shadow_routes import ShadowAddress, mirrored, shadow_clusters
from tasks.rollout.step_users import (
    NEITHER,
    NOW_HEADER,
    USER_HEADER,
    StepUsers,
    header_is,
    somebody,
)

Protocol = Literal["rest", "grpc"]
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "rest")
# What a slot answers beside these (its configuration, its metrics) is not for clients.
GRPC_PATH = r"/tensorflow\.serving\.(PredictionService/\w+|ModelService/GetModelStatus)"
PINNED = "/(versions|labels)/[^/:]+"  # what a REST path may name; gRPC names it in the message
ASKED = "(/metadata|:[a-z]+)?"
RETRIED_BODY_BYTES = 4 * 1024 * 1024  # REST above it meets stable
# gRPC does not say a request's length beforehand: it is read whole, and a larger one is refused,
# whichever slot would be asked. What Envoy does not keep, it cannot ask of stable.
GRPC_BODY_BYTES = RETRIED_BODY_BYTES  # gRPC's own default for a message
MAX_REQUESTS = 100_000  # never the circuit breaker: an overflow is not retried by Envoy
REQUEST_TIMEOUT_SECONDS = 30
MIN_PER_TRY_TIMEOUT_MS = 20.0
# Candidate, stable, candidate, stable: priorities are taken in turns, and the last try must be
# stable's, or a try of stable that breaks off would leave a user with the candidate's answer.
FALLBACK_RETRIES = 3
_TYPE = "type.googleapis.com/envoy"
_CLUSTER = f"{_TYPE}.config.cluster.v3.Cluster"
_ROUTES = f"{_TYPE}.config.route.v3.RouteConfiguration"

Config = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SlotAddress:
    """Where one slot's server listens."""

    grpc: int
    rest: int
    host: str = "127.0.0.1"


def parse_slots(text: str | bytes, where: str) -> dict[Colour, SlotAddress]:
    """Read `slots.json` (`slots/1`); errors name `where`."""
    record = parse_object(text, where)
    check_format(record, "slots", 1, where)
    slots: Any = record.get("slots")
    try:
        return {
            Colour(colour): SlotAddress(
                grpc=int(slot["grpc"]), rest=int(slot["rest"]), host=slot.get("host", "127.0.0.1")
            )
            for colour, slot in slots.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{where}: expected colours with the ports grpc and rest, found: {error!r}"
        raise BadRequestError(message) from error


@dataclass(frozen=True, kw_only=True)
class RoutedModel:
    """One model as the router sees it."""

    record: StateRecord
    slots: Mapping[Colour, SlotAddress]
    shadow: ShadowAddress | None = None

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.record.model


def cluster_name(model: str, colour: Colour, protocol: Protocol, *, candidate: bool) -> str:
    """Return `<model>.<colour>.<protocol>`, with `.candidate` where it may be ejected."""
    return f"{model}.{colour}.{protocol}" + (".candidate" if candidate else "")


def render_clusters(models: Iterable[RoutedModel], shadow: ShadowAddress | None = None) -> Config:
    """Return the CDS response: it depends on models and ports only, never on the share."""
    clusters = [cluster for model in models for cluster in _clusters(model)]
    clusters += [] if shadow is None else shadow_clusters(shadow)
    resources = [{"@type": _CLUSTER, **cluster} for cluster in clusters]
    return {"version_info": digest_of_json(resources)[:16], "resources": resources}


def _clusters(model: RoutedModel) -> list[Config]:
    found: list[Config] = []
    for protocol in PROTOCOLS:
        for colour, slot in sorted(model.slots.items()):
            found.append(_slot_cluster(model.name, colour, slot, protocol, candidate=False))
            found.append(_slot_cluster(model.name, colour, slot, protocol, candidate=True))
        found += [
            _fallback_cluster(model.name, candidate, stable, protocol)
            for candidate, stable in permutations(sorted(model.slots), 2)
        ]
    return found


def _slot_cluster(
    model: str, colour: Colour, slot: SlotAddress, protocol: Protocol, *, candidate: bool
) -> Config:
    name = cluster_name(model, colour, protocol, candidate=candidate)
    address = {"address": slot.host, "port_value": slot.grpc if protocol == "grpc" else slot.rest}
    endpoint: Config = {
        "endpoint": {"address": {"socket_address": address}},
        # An aggregate hides which of its clusters answered; the access log reads it from here.
        "metadata": {"filter_metadata": {"headrace": {"slot": colour.value}}},
    }
    return {
        "name": name,
        **found_by(slot.host),
        "connect_timeout": "0.1s" if candidate else "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        **_http_options(protocol),
        "circuit_breakers": _NO_BREAKERS,
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},
            "update_merge_window": "0s",  # Envoy's default lets each ejection last a second longer
        },
        # Stable is never ejected: it is what everybody falls back to.
        **({"outlier_detection": _EJECTION} if candidate else {}),
    }


def _http_options(protocol: Protocol, **more: Any) -> Config:
    kind = "http2_protocol_options" if protocol == "grpc" else "http_protocol_options"
    options = {
        "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {kind: {}},
        **more,
    }
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {"typed_extension_protocol_options": {name: options}}


_THRESHOLD = {
    "max_connections": MAX_REQUESTS,
    "max_pending_requests": MAX_REQUESTS,
    "max_requests": MAX_REQUESTS,
    "max_retries": MAX_REQUESTS,  # Envoy's default is 3: the fallback would end there
}
_NO_BREAKERS: Config = {"thresholds": [_THRESHOLD]}
_EJECTION: Config = {
    "consecutive_5xx": 5,
    "consecutive_gateway_failure": 5,
    "enforcing_consecutive_gateway_failure": 100,
    "enforcing_success_rate": 0,
    # Soon asked again: only then can the keeper tell one that hangs from one that stood still for
    # a moment. The time grows with each ejection, also since a slot that is ejected again within
    # one interval is never found healthy in between.
    "interval": "0.5s",
    "base_ejection_time": "0.3s",
    "max_ejection_time": "10s",
    "max_ejection_percent": 100,
}


# Envoy can ask stable only as long as nothing of the candidate's answer went to the user: a
# candidate that dies or hangs between its headers and its last byte would cost that user. So an
# answer is held until it is whole, unless it says that it is longer than is worth holding.
WHOLE_ANSWER_BYTES = 4 * 1024 * 1024
MOST_HELD_BYTES = 64 * 1024 * 1024  # of an answer that does not say its length
LATE_STATUS_HEADER = "x-headrace-grpc-status"
UNKNOWN = 2  # what a gRPC client makes of an answer without a status
# Only good heads are held: one that is bad goes on as it comes. What is held and then called bad
# while another try is in flight would end Envoy 1.40 (a try that is given up within its own end).
_LUA_HOLD = f"""
local function held(handle)
  if handle:headers():get(":status") ~= "200" then return false end
  local length = tonumber(handle:headers():get("content-length") or "0")
  if length == nil or length > {WHOLE_ANSWER_BYTES} then return false end
  handle:body()
  return true
end
"""
_LUA_WHOLE_ANSWER: dict[Protocol, str] = {  # only gRPC says after a good head that it failed
    "rest": f"""{_LUA_HOLD}
function envoy_on_response(handle)
  held(handle)
end
""",
    "grpc": f"""{_LUA_HOLD}
local function in_flight(handle, more)
  local kept = handle:streamInfo():dynamicMetadata()
  local tries = ((kept:get("headrace") or {{}})["tries"] or 0) + more
  kept:set("headrace", "tries", tries)
  return tries
end
function envoy_on_request(handle)
  in_flight(handle, 1)
end
function envoy_on_response(handle)
  local whole = held(handle)
  local trailers = whole and handle:trailers()
  local others = in_flight(handle, -1) -- not before: a try that is held can still be given up
  if not whole then return end
  local told = trailers and trailers:get("grpc-status") or handle:headers():get("grpc-status")
  local status = tonumber(told or "") or {UNKNOWN}
  if status ~= 0 and others == 0 then
    handle:headers():replace("{LATE_STATUS_HEADER}", tostring(status))
  end
end
""",
}
_HTTP_FILTERS = f"{_TYPE}.extensions.filters.http"


def _whole_answers(protocol: Protocol) -> list[Config]:
    return [
        {
            "name": "envoy.filters.http.lua",
            "typed_config": {
                "@type": f"{_HTTP_FILTERS}.lua.v3.Lua",
                "default_source_code": {"inline_string": _LUA_WHOLE_ANSWER[protocol]},
            },
        },
        {
            "name": "envoy.filters.http.upstream_codec",
            "typed_config": {"@type": f"{_HTTP_FILTERS}.upstream_codec.v3.UpstreamCodec"},
        },
    ]


def _fallback_name(model: str, candidate: Colour, stable: Colour, protocol: Protocol) -> str:
    return f"{model}.{candidate}-then-{stable}.{protocol}"


def _fallback_cluster(model: str, candidate: Colour, stable: Colour, protocol: Protocol) -> Config:
    clusters = [
        cluster_name(model, candidate, protocol, candidate=True),
        cluster_name(model, stable, protocol, candidate=False),
    ]
    kind = {
        "@type": f"{_TYPE}.extensions.clusters.aggregate.v3.ClusterConfig",
        "clusters": clusters,
    }
    return {
        "name": _fallback_name(model, candidate, stable, protocol),
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": kind},
        # Filters of the clusters below an aggregate are not run: they belong here.
        **_http_options(protocol, http_filters=_whole_answers(protocol)),
        "per_connection_buffer_limit_bytes": MOST_HELD_BYTES,
        "circuit_breakers": _NO_BREAKERS,
    }


def render_routes(models: Sequence[RoutedModel], shadow: ShadowAddress | None = None) -> Config:
    """Return the RDS response: one virtual host per model, and `x-model` for any other name.

    With a comparator, a sample of the requests of models with a candidate is mirrored to it.
    """
    models = [replace(model, shadow=shadow) for model in models]
    names = sorted(model.name for model in models)
    unknown = _answer(404, f"expected :authority <model>.headrace or x-model of {names}")
    hosts: list[Config] = [
        {"name": model.name, "domains": [f"{model.name}.headrace"], **_routed(_Hosted(model))}
        for model in models
    ]
    by_header = [_Hosted(model, by_header=True) for model in models]
    hosts.append({"name": "any", "domains": ["*"], **_routed(*by_header, otherwise=[unknown])})
    table: Config = {
        "@type": _ROUTES,
        "name": "models",
        "virtual_hosts": hosts,
        "request_headers_to_remove": ["x-model", NOW_HEADER, USER_HEADER],
    }
    return {"version_info": digest_of_json(table)[:16], "resources": [table]}


def _answer(code: int, sentence: str) -> Config:
    body = {"inline_string": f'{{"error": "{sentence}"}}\n'.replace("'", "")}
    return {"match": {"prefix": "/"}, "direct_response": {"status": code, "body": body}}


@dataclass(frozen=True)
class _Hosted:
    """A model in a virtual host: its own, or the one that asks for the header `x-model`."""

    model: RoutedModel
    by_header: bool = False

    @property
    def wanted(self) -> list[Config]:
        return [_exact("x-model", self.model.name)] if self.by_header else []


def _routed(*hosted: _Hosted, otherwise: Sequence[Config] = ()) -> Config:
    """Return the routes of a virtual host; the users of a step are told from the others first."""
    routes = [route for one in hosted for route in _routes(one)] + list(otherwise)
    steps = [_users_of_step(one) for one in hosted if _is_step(one.model)]
    if not steps:
        return {"routes": routes}
    return {"matcher": {"matcher_list": {"matchers": steps}, "on_no_match": _list_of(routes)}}


def _elsewhere(hosted: _Hosted) -> Config:
    """Return the router's own answer to paths that it does not forward; by gRPC UNIMPLEMENTED."""
    name = hosted.model.name
    sentence = (
        f"expected /v1/models/{name} with :predict, /metadata or the like, or by gRPC "
        "PredictionService or ModelService/GetModelStatus; nothing else is forwarded to a slot"
    )
    answer = _answer(404, sentence)
    return {**answer, "match": {**answer["match"], "headers": hosted.wanted}}


def _list_of(routes: list[Config]) -> Config:
    kind = {"@type": f"{_TYPE}.config.route.v3.RouteList", "routes": routes}
    return {"action": {"name": "routes", "typed_config": kind}}


def _users_of_step(hosted: _Hosted) -> Config:
    """Return the matcher of a step's users: below the share they meet the candidate, else stable."""
    named = somebody()
    if hosted.by_header:
        wanted = header_is("x-model", {"value_match": {"exact": hosted.model.name}})
        named = {"and_matcher": {"predicate": [wanted, named]}}
    stable = [route for one in PROTOCOLS for route in _stable_routes_of_step(hosted, one)]
    stable.append(_elsewhere(hosted))
    pinned = _pinned_route(hosted)
    below = {
        "predicate": StepUsers.of(hosted.model.record).predicate(),
        "on_match": _list_of([pinned, *_candidate_routes(hosted), *stable]),
    }
    dealt = {"matcher_list": {"matchers": [below]}, "on_no_match": _list_of([pinned, *stable])}
    return {"predicate": named, "on_match": {"matcher": dealt}}


def _stable_routes_of_step(hosted: _Hosted, protocol: Protocol) -> list[Config]:
    """Return stable's routes of a step's users, whatever their bucket.

    Below the share only those who cannot be asked again meet them, so above it these are told apart
    as well: left out of one arm alone, they would look like a wrong split.
    """
    again = _asked_again(protocol)
    model, wanted = hosted.model, hosted.wanted
    stable = _stable_route(model, protocol, [*wanted, *again], logged_as="stable")
    return [stable, *([_stable_route(model, protocol, wanted, logged_as=NEITHER)] if again else [])]


def _asked_again(protocol: Protocol) -> list[Config]:
    """Return what a request that may be asked again says: how long its body is, which is kept."""
    return [_range("content-length", RETRIED_BODY_BYTES)] if protocol == "rest" else []


def _routes(hosted: _Hosted) -> list[Config]:
    """Return the routes of those who are not a step's users."""
    model, wanted = hosted.model, hosted.wanted
    stable = model.record.roles.stable
    if stable is None or stable not in model.slots:
        answer = _answer(503, f"model {model.name} has no release that serves")
        return [{**answer, "match": {"prefix": "/", "headers": wanted}}]
    halted = _takes_share(model) and not _is_step(model)
    routes = (_candidate_routes(hosted) if halted else []) + _stable_routes(hosted)
    return [*routes, _elsewhere(hosted)]


def _candidate_routes(hosted: _Hosted) -> list[Config]:
    return [_candidate_route(hosted.model, protocol, hosted.wanted) for protocol in PROTOCOLS]


def _pinned_route(hosted: _Hosted) -> Config:
    """Return the route of paths with a version or a label: they mean stable's, and are no exposure.

    The candidate would not know it: stable's answer in its stead would look like its failure.
    """
    route = _stable_route(hosted.model, "rest", hosted.wanted)
    route["match"]["safe_regex"] = {"regex": f"/v1/models/{hosted.model.name}{PINNED}{ASKED}"}
    return route


def _stable_routes(hosted: _Hosted) -> list[Config]:
    return [_stable_route(hosted.model, protocol, hosted.wanted) for protocol in PROTOCOLS]


def _is_step(model: RoutedModel) -> bool:
    """Return whether some users meet the candidate; halted, stable is broken and all of them do."""
    return _takes_share(model) and model.record.status.phase is Phase.STEPPING


def _takes_share(model: RoutedModel) -> bool:
    status, candidate = model.record.status, model.record.roles.candidate
    serving = (
        status.phase in {Phase.STEPPING, Phase.HALTED} and model.record.roles.stable in model.slots
    )
    return serving and status.share > 0 and candidate in model.slots


def _exact(header: str, value: str) -> Config:
    return {"name": header, "string_match": {"exact": value}}


def _range(header: str, end: int) -> Config:
    return {"name": header, "range_match": {"start": 0, "end": end}}


def _match(model: str, protocol: Protocol, headers: list[Config]) -> Config:
    if protocol == "grpc":
        return {"safe_regex": {"regex": GRPC_PATH}, "headers": headers, "grpc": {}}
    path = f"/v1/models/{model}({PINNED})?{ASKED}"
    return {"safe_regex": {"regex": path}, "headers": headers}


def _stable_route(
    model: RoutedModel, protocol: Protocol, wanted: list[Config], *, logged_as: str | None = None
) -> Config:
    """Return a route to stable; `logged_as` is the arm of a step's users."""
    stable = model.record.roles.stable
    if stable is None:  # pragma: no cover - `_routes` answers 503 before
        message = f"{model.name}: expected a stable slot, found none"
        raise BadRequestError(message)
    return {
        "match": _match(model.name, protocol, wanted),
        "stat_prefix": stat_prefix(model.record, "stable"),
        "route": {
            "cluster": cluster_name(model.name, stable, protocol, candidate=False),
            "timeout": f"{REQUEST_TIMEOUT_SECONDS}s",
            "retry_policy": _stable_policy(model.slots[stable]),
            **_mirror(model, protocol),
        },
        **_read_whole(protocol),
        **_labels(model, "stable", logged_as=logged_as),
    }


def _stable_policy(slot: SlotAddress) -> Config:
    """Return when stable is asked again: by name, another of its replicas, also for one that died.

    Asking for a prediction twice does no harm.
    """
    if is_address(slot.host):
        return {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 1}
    previous = f"{_TYPE}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "retry_on": "connect-failure,refused-stream,reset,unavailable",
        "num_retries": 3,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": previous},
            }
        ],
        "host_selection_retry_max_attempts": 5,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.1s"},
    }


def _candidate_route(model: RoutedModel, protocol: Protocol, wanted: list[Config]) -> Config:
    record = model.record
    candidate, stable = record.roles.candidate, record.roles.stable
    if candidate is None or stable is None:  # pragma: no cover - `_takes_share` was asked before
        message = f"{model.name}: expected a candidate and a stable slot, found {record.roles}"
        raise BadRequestError(message)
    headers = list(wanted)
    if record.status.phase is not Phase.HALTED:  # then stable is broken: nobody may meet it first
        headers.append(StepUsers.of(record).before_expiry())
        headers += _asked_again(protocol)
    return {
        "match": _match(model.name, protocol, headers),
        "stat_prefix": stat_prefix(record, "candidate"),
        "request_body_buffer_limit": RETRIED_BODY_BYTES,
        "route": {
            "cluster": _fallback_name(model.name, candidate, stable, protocol),
            "timeout": f"{REQUEST_TIMEOUT_SECONDS}s",
            "retry_policy": _fallback_policy(record.per_try_timeout_ms),
            # The first attempt goes on beside the second: being slow must not become a failure.
            "hedge_policy": {"hedge_on_per_try_timeout": True},
            **_mirror(model, protocol),
        },
        **_read_whole(protocol),
        **_labels(model, "candidate", logged_as="candidate"),
    }


_BUFFER = "envoy.filters.http.buffer"


def grpc_size_limit() -> Config:
    """Return the filter that holds a gRPC request until it is whole; REST does not pass it."""
    buffer = {"@type": f"{_HTTP_FILTERS}.buffer.v3.Buffer", "max_request_bytes": GRPC_BODY_BYTES}
    return {"name": _BUFFER, "disabled": True, "typed_config": buffer}


def _read_whole(protocol: Protocol) -> Config:
    if protocol == "rest":
        return {}
    limit = {
        "@type": f"{_HTTP_FILTERS}.buffer.v3.BufferPerRoute",
        "buffer": {"max_request_bytes": GRPC_BODY_BYTES},
    }
    return {"typed_per_filter_config": {_BUFFER: limit}}


def _mirror(model: RoutedModel, protocol: Protocol) -> Config:
    """Return the mirror of a route; halted, there is one slot."""
    halted = model.record.status.phase is Phase.HALTED
    if model.shadow is None or model.record.candidate is None or halted:
        return {}
    policies = mirrored(model.shadow, protocol)
    return {"request_mirror_policies": policies} if policies else {}


def stat_prefix(record: StateRecord, variant: str) -> str:
    """Return `<model>/<variant>/<release number>`: the name of a variant in Envoy's statistics."""
    return f"{record.model}/{variant}/{release_number(record, variant)}"


def release_number(record: StateRecord, variant: str) -> int:
    """Return the number of the release that a variant is, 0 for none."""
    content = record.candidate if variant == "candidate" else record.stable
    return 0 if content is None else content.release_number


# Whose fault a refusal is, only stable can tell: a model or signature that the candidate lacks, or
# inputs that it wants otherwise, look like a client's mistake. What stable refuses too, is one.
# Nor does a prediction ever redirect: a good answer has the code 200.
_REFUSALS: list[Config] = [
    {"name": ":status", "string_match": {"exact": "200"}, "invert_match": True},
    *(
        {"name": name, "string_match": {"safe_regex": {"regex": "[1-9][0-9]*"}}}
        for name in ("grpc-status", LATE_STATUS_HEADER)
    ),
]


def _fallback_policy(per_try_timeout_ms: float) -> Config:
    timeout = max(MIN_PER_TRY_TIMEOUT_MS, per_try_timeout_ms)
    previous = f"{_TYPE}.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    return {
        "retry_on": "5xx,reset,connect-failure,refused-stream,retriable-headers",
        "retriable_headers": _REFUSALS,
        "num_retries": FALLBACK_RETRIES,
        "per_try_timeout": f"{timeout / 1000:.3f}s",
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"},
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {"@type": previous, "update_frequency": 1},
        },
    }


def _labels(model: RoutedModel, variant: str, *, logged_as: str | None) -> Config:
    """Return what the access log and the client learn from a route; in the log a step has only its users."""
    record = model.record
    release = str(release_number(record, variant))
    log: dict[str, Json] = {"model": model.name, "variant": variant, "release": release}
    answer = {"x-headrace-model": model.name, "x-headrace-variant": variant}
    if record.status.phase is Phase.STEPPING:
        step = str(record.status.step)
        answer["x-headrace-step"] = f"{record.rollout}:{step}"
        if logged_as is not None:
            users = str(StepUsers.of(record))
            log |= {"rollout": record.rollout, "step": step, "step_users": users}
            log["variant"] = logged_as
    return {
        "metadata": {"filter_metadata": {"headrace": log}},
        "response_headers_to_add": [
            {
                "header": {"key": key, "value": value},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
            for key, value in answer.items()
        ],
        "response_headers_to_remove": [LATE_STATUS_HEADER],
    }
