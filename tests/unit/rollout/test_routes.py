from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.rollout.assignment import seed_of
from tasks.rollout.decide import RolloutStatus
from tasks.rollout.phases import Phase
from tasks.rollout.record import Colour, Lease, Roles, SlotContent, StateRecord
from tasks.rollout.routes import (
    MAX_REQUESTS,
    RoutedModel,
    SlotAddress,
    parse_slots,
    render_clusters,
    render_routes,
)
from tasks.rollout.shadow_routes import ShadowAddress

SLOTS = {
    colour: SlotAddress(grpc=7000 + place, rest=8000 + place) for place, colour in enumerate(Colour)
}
FIRST = SlotContent(release_id="first", release_number=1)
SECOND = SlotContent(release_id="second", release_number=2)


def model(phase: Phase, share: int = 0, **others: Any) -> RoutedModel:
    record = StateRecord(
        model="shop",
        roles=Roles(stable=Colour.BLUE, candidate=Colour.GREEN),
        slots={Colour.BLUE: FIRST, Colour.GREEN: SECOND},
        status=RolloutStatus(phase=phase, has_stable=True, step=1, share=share),
        release_id="second",
        per_try_timeout_ms=120.0,
        lease=Lease(seconds=600, renewals=1, expires_at=1_700_000_600.2),
    )
    return RoutedModel(record=replace(record, **others), slots=SLOTS)


def host_of(routed: RoutedModel, shadow: ShadowAddress | None = None) -> dict[str, Any]:
    (table,) = render_routes([routed], shadow)["resources"]
    found: dict[str, Any] = table["virtual_hosts"][0]
    return found


def routes_of(routed: RoutedModel, shadow: ShadowAddress | None = None) -> list[dict[str, Any]]:
    """Return the routes of a step's users; of everybody where there is no step."""
    return routes_for(host_of(routed, shadow), user=True)


def routes_for(
    host: dict[str, Any], *, user: bool, below: bool = True, pinned: bool = False
) -> list[dict[str, Any]]:
    """Return the routes of a user with a bucket `below` the share or not, or of nobody.

    Those of paths that name a version or a label come before and are asked for apart.
    """
    found: list[dict[str, Any]]
    if "routes" in host:
        found = host["routes"]
    else:
        tree = host["matcher"]
        if user:
            (named,) = tree["matcher_list"]["matchers"]
            tree = named["on_match"]["matcher"]
        way = tree["matcher_list"]["matchers"][0]["on_match"] if user and below else None
        found = (way or tree["on_no_match"])["action"]["typed_config"]["routes"]
    return [route for route in forwarded(found) if is_pinned(route) is pinned]


def forwarded(routes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the routes without the router's own 404."""
    return [one for one in routes if one.get("direct_response", {}).get("status") != 404]


def is_pinned(route: dict[str, Any]) -> bool:
    return "shop/(versions|labels)/" in str(route["match"])


def clusters_of(routed: RoutedModel) -> dict[str, dict[str, Any]]:
    return {cluster["name"]: cluster for cluster in render_clusters([routed])["resources"]}


@pytest.mark.parametrize(
    ("phase", "share", "asked"),
    (
        pytest.param(
            Phase.STEPPING, 500, ["x-headrace-now", "content-length"], id="a step: its users"
        ),
        pytest.param(Phase.HALTED, 10_000, [], id="halted: everybody, known or not, at any length"),
    ),
)
def test_who_meets_the_candidate(phase: Phase, share: int, asked: list[str]) -> None:
    found = [
        route for route in routes_of(model(phase, share)) if "candidate" in route["stat_prefix"]
    ]
    (rest,) = (route for route in found if "grpc" not in route["match"])
    assert [header["name"] for header in rest["match"]["headers"]] == asked


SHADOW = ShadowAddress(port=9911, percent=5.0, grpc=9913)


def mirrored(routed: RoutedModel, shadow: ShadowAddress | None = SHADOW) -> list[str]:
    """Return the routes whose requests are mirrored, as variant and protocol."""
    return [
        f"{route['stat_prefix']} {'grpc' if 'grpc' in route['match'] else 'rest'}"
        for route in routes_of(routed, shadow)
        if "request_mirror_policies" in route["route"]
    ]


def test_a_sample_of_requests_is_mirrored_while_there_is_a_candidate() -> None:
    candidates = ["shop/candidate/2 grpc", "shop/candidate/2 rest"]
    stables = ["shop/stable/1 grpc", "shop/stable/1 rest"]
    assert mirrored(model(Phase.STEPPING, 500)) == [*candidates, *stables, stables[-1]]
    assert mirrored(model(Phase.STAGED)) == stables
    alone = model(Phase.SERVING, roles=Roles(stable=Colour.BLUE))
    assert mirrored(alone) == []
    assert mirrored(model(Phase.HALTED, 10_000)) == []  # the one slot that answers has enough to do
    assert mirrored(model(Phase.STEPPING, 500), None) == []


def test_a_comparator_that_takes_no_grpc_is_sent_rest_alone() -> None:
    before = ShadowAddress(port=9911, percent=5.0)
    assert mirrored(model(Phase.STAGED), before) == ["shop/stable/1 rest"]
    assert [one["name"] for one in render_clusters([], before)["resources"]] == ["shadow"]


def test_a_comparator_with_a_name_is_looked_up_and_no_start_of_envoy_waits_for_it() -> None:
    named = replace(SHADOW, host="headrace-shadow.shop.svc")
    found = render_clusters([], named)["resources"]
    assert [one["name"] for one in found] == ["shadow", "shadow.grpc"]
    for cluster in found:
        assert "type" not in cluster
        assert cluster["cluster_type"]["name"] == "envoy.clusters.dns"
        assert cluster["wait_for_warm_on_init"] is False
        (locality,) = cluster["load_assignment"]["endpoints"]
        (endpoint,) = locality["lb_endpoints"]
        socket = endpoint["endpoint"]["address"]["socket_address"]
        assert socket["address"] == "headrace-shadow.shop.svc"
    assert {one["type"] for one in render_clusters([], SHADOW)["resources"]} == {"STATIC"}


def test_each_protocol_is_mirrored_to_its_own_cluster_under_the_same_limits() -> None:
    rest, grpc = render_clusters([], SHADOW)["resources"]
    (options,) = grpc["typed_extension_protocol_options"].values()
    assert options["explicit_http_config"] == {"http2_protocol_options": {}}
    assert grpc["circuit_breakers"] == rest["circuit_breakers"]
    (limits,) = grpc["circuit_breakers"]["thresholds"]
    assert (limits["max_requests"], limits["max_pending_requests"], limits["max_retries"]) == (
        64,
        64,
        0,
    )
    (table,) = render_routes([model(Phase.STAGED)], SHADOW)["resources"]
    routes = table["virtual_hosts"][0]["routes"]
    targets = [
        route["route"]["request_mirror_policies"][0]["cluster"] for route in forwarded(routes)
    ]
    assert targets == [grpc["name"], rest["name"]]


def test_the_share_of_mirrored_requests_is_said_in_millionths_and_can_be_changed() -> None:
    (table,) = render_routes([model(Phase.STAGED)], SHADOW)["resources"]
    route = forwarded(table["virtual_hosts"][0]["routes"])[-1]["route"]
    (policy,) = route["request_mirror_policies"]
    fraction = policy["runtime_fraction"]
    assert fraction["default_value"] == {"numerator": 50_000, "denominator": "MILLION"}
    assert fraction["runtime_key"] == "headrace.shadow"
    clusters = {one["name"] for one in render_clusters([], SHADOW)["resources"]}
    assert policy["cluster"] in clusters
    assert render_clusters([])["resources"] == []


def targets(routed: RoutedModel) -> list[str]:
    return [route["route"]["cluster"] for route in routes_of(routed)]


@pytest.mark.parametrize(
    ("phase", "share", "expected"),
    (
        pytest.param(Phase.SERVING, 0, [], id="serving: nobody meets a candidate"),
        pytest.param(Phase.STAGED, 0, [], id="staged: nobody meets the candidate"),
        pytest.param(Phase.PAUSED, 0, [], id="paused: nobody meets the candidate"),
        pytest.param(
            Phase.STEPPING,
            500,
            ["shop.green-then-blue.grpc", "shop.green-then-blue.rest"],
            id="stepping: some meet the candidate",
        ),
        pytest.param(
            Phase.HALTED,
            10_000,
            ["shop.green-then-blue.grpc", "shop.green-then-blue.rest"],
            id="halted: all meet the candidate",
        ),
    ),
)
def test_who_is_routed_where(phase: Phase, share: int, expected: list[str]) -> None:
    stable = ["shop.blue.grpc", "shop.blue.rest"]
    if phase is Phase.STEPPING:
        stable.append("shop.blue.rest")  # of those who could not be asked again
    assert targets(model(phase, share)) == expected + stable


def test_grpc_is_matched_before_rest_because_rest_matches_everything() -> None:
    matches = [route["match"] for route in routes_of(model(Phase.STEPPING, 500))]
    assert ["grpc" in match for match in matches] == [True, False, True, False, False]


def test_the_candidate_takes_the_buckets_below_its_share() -> None:
    stepping = model(Phase.STEPPING, 2500)
    (named,) = host_of(stepping)["matcher"]["matcher_list"]["matchers"]
    asked = named["predicate"]["single_predicate"]["input"]["typed_config"]
    assert asked["header_name"] == "x-headrace-user"
    (below,) = named["on_match"]["matcher"]["matcher_list"]["matchers"]
    above = below["predicate"]["not_matcher"]["single_predicate"]["custom_match"]["typed_config"]
    assert (above["threshold"], above["modulo"]) == (2500, 10_000)
    assert above["seed"] == str(seed_of(stepping.record.salt or ""))


def test_the_other_users_of_a_step_meet_stable_and_so_does_nobody_who_is_none_of_them() -> None:
    host = host_of(model(Phase.STEPPING, 2500))
    others, nobody = routes_for(host, user=True, below=False), routes_for(host, user=False)
    assert [route["stat_prefix"] for route in others + nobody] == ["shop/stable/1"] * 5
    said = [route["metadata"]["filter_metadata"]["headrace"] for route in others + nobody]
    assert ["rollout" in one for one in said] == [True, True, True, False, False]


@pytest.mark.parametrize("below", (True, False), ids=("below the share", "above it"))
def test_who_could_not_have_met_the_candidate_is_in_neither_arm_whatever_the_bucket(
    *, below: bool
) -> None:
    routes = routes_for(host_of(model(Phase.STEPPING, 2500)), user=True, below=below)
    stable = [route for route in routes if route["stat_prefix"] == "shop/stable/1"]
    logged = [route["metadata"]["filter_metadata"]["headrace"]["variant"] for route in stable]
    told = [[header["name"] for header in route["match"]["headers"]] for route in stable]
    # By gRPC a body is kept as it comes, up to the limit.
    assert logged == ["stable", "stable", "neither"]
    assert told == [[], ["content-length"], []]
    answered = {
        header["header"]["key"]: header["header"]["value"]
        for header in stable[-1]["response_headers_to_add"]
    }
    assert answered["x-headrace-variant"] == "stable"  # who answers, not who is compared


def test_the_routes_say_who_a_steps_users_are_only_while_stepping() -> None:
    stepping = model(Phase.STEPPING, 500)
    for route in routes_of(stepping):
        said = route["metadata"]["filter_metadata"]["headrace"]["step_users"]
        assert said == f"{seed_of(stepping.record.salt or '')}:500:1700000601"
    for route in routes_of(model(Phase.PAUSED)):
        assert "step_users" not in route["metadata"]["filter_metadata"]["headrace"]


ENDS = ("", "/metadata", ":predict", ":classify", ":regress")
INSIDE = [
    *(f"/v1/models/shop{end}" for end in ENDS),
    "/v1/models/shop/versions/3:predict",
    "/v1/models/shop/labels/stable/metadata",
    "/tensorflow.serving.PredictionService/Predict",
    "/tensorflow.serving.ModelService/GetModelStatus",
]
OUTSIDE = [
    "/",
    "/monitoring/prometheus/metrics",
    "/v1/models",
    "/v1/models/shoe:predict",
    "/v1/models/shop-2:predict",
    "/v1/models/shop/../../monitoring/prometheus/metrics",
    "/v1/models/shop/versions/../../../monitoring",
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
    "/tensorflow.serving.PredictionService/Predict/x",
    "/tensorflowxserving.PredictionService/Predict",
    "/grpc.health.v1.Health/Check",
]


@pytest.mark.parametrize(
    "phase", (Phase.SERVING, Phase.STEPPING, Phase.HALTED), ids=lambda phase: phase.value
)
def test_only_the_paths_of_this_model_are_forwarded(phase: Phase) -> None:
    host = host_of(model(phase, 500))
    lists = [
        routes_for(host, user=user, below=below, pinned=pinned)
        for user, below in ((True, True), (True, False), (False, False))
        for pinned in (True, False)
    ]
    paths = {one["match"]["safe_regex"]["regex"] for routes in lists for one in routes}
    assert [path for path in INSIDE if not any(re.fullmatch(one, path) for one in paths)] == []
    assert [path for path in OUTSIDE if any(re.fullmatch(one, path) for one in paths)] == []


@pytest.mark.parametrize("user", (True, False), ids=("a step's user", "nobody"))
def test_the_router_itself_answers_every_other_path_last(*, user: bool) -> None:
    tree = host_of(model(Phase.STEPPING, 2500))["matcher"]
    if user:
        (named,) = tree["matcher_list"]["matchers"]
        tree = named["on_match"]["matcher"]
    last = tree["on_no_match"]["action"]["typed_config"]["routes"][-1]
    assert last["match"] == {"prefix": "/", "headers": []}
    assert last["direct_response"]["status"] == 404
    assert "expected /v1/models/shop" in last["direct_response"]["body"]["inline_string"]


@pytest.mark.parametrize("below", (True, False), ids=("the candidate's", "the others"))
def test_a_path_that_names_a_version_or_a_label_meets_stable_and_is_no_exposure(
    below: bool,
) -> None:
    host = host_of(model(Phase.STEPPING, 500))
    routes = routes_for(host, user=True, below=below, pinned=True)
    (path,) = (re.compile(route["match"]["safe_regex"]["regex"]) for route in routes)
    for pin in ("versions/3", "labels/stable"):
        assert all(path.fullmatch(f"/v1/models/shop/{pin}{end}") for end in ENDS)
    assert not any(path.fullmatch(f"/v1/models/shop{end}") for end in ENDS)
    assert {route["route"]["cluster"] for route in routes} == {"shop.blue.rest"}
    assert not any("step_users" in str(route["metadata"]) for route in routes)
    ways = host["matcher"]["matcher_list"]["matchers"][0]["on_match"]["matcher"]
    way = ways["matcher_list"]["matchers"][0]["on_match"] if below else ways["on_no_match"]
    assert way["action"]["typed_config"]["routes"][:1] == routes


def test_whatever_the_candidate_refuses_is_asked_of_stable() -> None:
    policy = routes_of(model(Phase.STEPPING, 500))[0]["route"]["retry_policy"]
    code, *statuses = policy["retriable_headers"]
    assert code == {"name": ":status", "string_match": {"exact": "200"}, "invert_match": True}
    told = {one["name"]: one["string_match"] for one in statuses}
    for name in ("grpc-status", "x-headrace-grpc-status"):
        codes = re.compile(told[name]["safe_regex"]["regex"])
        assert [code for code in range(17) if codes.fullmatch(str(code))] == list(range(1, 17))


@pytest.mark.parametrize("phase", (Phase.SERVING, Phase.STEPPING, Phase.HALTED))
def test_grpc_requests_are_read_whole_under_one_limit_and_rest_ones_are_not(phase: Phase) -> None:
    for route in routes_of(model(phase, 500)):
        held = route.get("typed_per_filter_config", {})
        if "grpc" in route["match"]:
            (limit,) = held.values()
            assert limit["buffer"] == {"max_request_bytes": 4 * 1024 * 1024}
        else:
            assert held == {}


def test_the_candidates_routes_end_with_the_lease() -> None:
    for route in routes_of(model(Phase.STEPPING, 500))[:2]:
        (now,) = [one for one in route["match"]["headers"] if one["name"] == "x-headrace-now"]
        assert now["range_match"] == {"start": 0, "end": 1_700_000_601}


@pytest.mark.parametrize(("asked_ms", "told"), ((120.0, "0.120s"), (5.0, "0.020s")))
def test_one_try_is_limited_but_never_below_20_ms(asked_ms: float, told: str) -> None:
    routed = model(Phase.STEPPING, 500, per_try_timeout_ms=asked_ms)
    policy = routes_of(routed)[0]["route"]["retry_policy"]
    assert policy["per_try_timeout"] == told
    assert policy["retry_priority"]["name"] == "envoy.retry_priorities.previous_priorities"


def test_retries_are_never_fewer_than_requests() -> None:
    for cluster in clusters_of(model(Phase.STEPPING, 500)).values():
        (limits,) = cluster["circuit_breakers"]["thresholds"]
        assert limits["max_retries"] >= limits["max_requests"] == MAX_REQUESTS


def test_the_candidate_may_be_ejected_wholly_and_stable_never() -> None:
    clusters = clusters_of(model(Phase.STEPPING, 500))
    assert clusters["shop.green.rest.candidate"]["outlier_detection"]["max_ejection_percent"] == 100
    # One that is back is asked at once: Envoy's default would keep it out for another second.
    assert clusters["shop.green.rest.candidate"]["common_lb_config"]["update_merge_window"] == "0s"
    assert "outlier_detection" not in clusters["shop.blue.rest"]
    fallback = clusters["shop.green-then-blue.rest"]["cluster_type"]["typed_config"]["clusters"]
    assert fallback == ["shop.green.rest.candidate", "shop.blue.rest"]


def test_clusters_do_not_change_with_phase_or_share() -> None:
    texts = {json.dumps(render_clusters([model(phase, 500)])) for phase in Phase}
    assert len(texts) == 1


def test_every_route_names_a_cluster_that_is_there() -> None:
    routed = model(Phase.STEPPING, 500)
    assert set(targets(routed)) <= set(clusters_of(routed))


def test_a_model_without_a_release_answers_503() -> None:
    (route,) = routes_of(model(Phase.STAGED, roles=Roles(candidate=Colour.BLUE)))
    assert route["direct_response"]["status"] == 503


def test_two_models_have_an_authority_each_and_share_the_header() -> None:
    other = model(Phase.SERVING)
    other = RoutedModel(record=replace(other.record, model="search"), slots=SLOTS)
    (table,) = render_routes([model(Phase.SERVING), other])["resources"]
    hosts = {host["name"]: host for host in table["virtual_hosts"]}
    assert hosts["shop"]["domains"] == ["shop.headrace"]
    wanted = [
        header["string_match"]["exact"]
        for route in hosts["any"]["routes"][:-1]
        for header in route["match"]["headers"]
    ]
    assert wanted == ["shop"] * 3 + ["search"] * 3  # gRPC, REST, and any other path


def test_the_header_tells_the_users_of_each_models_step() -> None:
    other = model(Phase.STEPPING, 900)
    other = RoutedModel(record=replace(other.record, model="search"), slots=SLOTS)
    (table,) = render_routes([model(Phase.STEPPING, 500), other])["resources"]
    found = table["virtual_hosts"][-1]["matcher"]
    named, shares = [], []
    for matcher in found["matcher_list"]["matchers"]:
        name, _ = matcher["predicate"]["and_matcher"]["predicate"]
        named.append(name["single_predicate"]["value_match"]["exact"])
        (below,) = matcher["on_match"]["matcher"]["matcher_list"]["matchers"]
        bucket = below["predicate"]["not_matcher"]["single_predicate"]["custom_match"]
        shares.append(bucket["typed_config"]["threshold"])
    assert (named, shares) == (["shop", "search"], [500, 900])
    others = found["on_no_match"]["action"]["typed_config"]["routes"]
    assert [one.get("stat_prefix", "404") for one in others] == [
        *["shop/stable/1"] * 2, "404", *["search/stable/1"] * 2, "404", "404",
    ]  # fmt: skip


def test_equal_states_render_equal_bytes() -> None:
    first, second = (json.dumps(render_routes([model(Phase.STEPPING, 500)])) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "text",
    (
        pytest.param('{"format": "slots/1"}', id="no slots"),
        pytest.param('{"format": "slots/1", "slots": {"red": {"grpc": 1, "rest": 2}}}', id="red"),
        pytest.param('{"format": "slots/1", "slots": {"blue": {"grpc": 1}}}', id="no rest port"),
    ),
)
def test_broken_slots_are_refused(text: str) -> None:
    with pytest.raises(BadRequestError, match=r"slots\.json: expected colours"):
        parse_slots(text, "slots.json")
