from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.rollout.envoy import TIME_BOUNDS_MS, admin_address, router_files, write_bootstrap
from tasks.rollout.envoy_stats import (
    SlotCounts,
    Statistics,
    VariantCounts,
    VariantName,
    parse_statistics,
    read_statistics,
)
from tasks.rollout.record import Colour


def told(counts: dict[str, int], times: dict[str, dict[float, int]]) -> str:
    """Statistics as Envoy 1.40 writes them."""
    histograms: list[dict[str, Any]] = [
        {
            "name": name,
            "buckets": [
                {"upper_bound": bound, "interval": 0, "cumulative": number}
                for bound, number in buckets.items()
            ],
        }
        for name, buckets in times.items()
    ]
    stats = [{"name": name, "value": value} for name, value in counts.items()]
    return json.dumps({"stats": [*stats, {"histograms": histograms}]})


def test_counts_of_both_virtual_hosts_and_both_protocols_are_summed_up() -> None:
    found = parse_statistics(
        told(
            {
                "vhost.any.route.shop/candidate/7.upstream_rq_completed": 40,
                "vhost.any.route.shop/candidate/7.upstream_rq_retry": 3,
                "vhost.any.route.shop/candidate/7.upstream_rq_retry_limit_exceeded": 1,
                "vhost.shop.route.shop/candidate/7.upstream_rq_completed": 5,
                "vhost.shop.route.shop/candidate/7.upstream_rq_5xx": 1,
                "vhost.any.route.shop/stable/6.upstream_rq_completed": 60,
                "cluster.shop.green.rest.candidate.upstream_rq_total": 38,
                "cluster.shop.green.grpc.candidate.upstream_rq_total": 4,
                "cluster.shop.green.rest.candidate.upstream_rq_pending_failure_eject": 2,
                "cluster.shop.green.rest.candidate.outlier_detection.ejections_enforced_total": 1,
                "cluster.shop.blue.rest.upstream_rq_total": 60,
            },
            {
                "vhost.any.route.shop/candidate/7.upstream_rq_time": {5: 30, 140: 39, 60000: 40},
                "vhost.shop.route.shop/candidate/7.upstream_rq_time": {5: 5, 140: 5, 60000: 5},
            },
        ),
        "here",
    )
    seven = VariantName(model="shop", variant="candidate", release_number=7)
    six = VariantName(model="shop", variant="stable", release_number=6)
    assert found.variants == {
        seven: VariantCounts(
            completed=45, failed=1, retried=3, exhausted=1, within_ms={5: 35, 140: 44, 60000: 45}
        ),
        six: VariantCounts(completed=60),
    }
    assert found.slots == {("shop", Colour.GREEN): SlotCounts(asked=44, ejections=1)}


def test_failed_rpcs_of_the_log_stand_beside_what_envoy_counted() -> None:
    six = VariantName(model="shop", variant="stable", release_number=6)
    seven = VariantName(model="shop", variant="candidate", release_number=7)
    counted = Statistics(variants={six: VariantCounts(completed=60, failed=1)}, slots={})
    told = counted.with_failed_rpcs({(six, "blue"): 4, (seven, "green"): 2, (seven, "blue"): 3})
    found = told.variants
    assert found == {
        six: VariantCounts(completed=60, failed=1, failed_rpcs=4),
        seven: VariantCounts(failed_rpcs=5),
    }
    assert found[six].failures == 5
    assert told.slots[("shop", Colour.GREEN)] == SlotCounts(passed_on=2), "the candidate's own"


def test_slower_counts_from_the_bound_below_the_limit() -> None:
    counts = VariantCounts(within_ms={10: 5, 140: 8, 170: 9, 60000: 10})
    assert counts.timed == 10
    # What was given up at 150 or at 170 ms took that long: above 140 ms.
    assert (counts.slower_than(150), counts.slower_than(170), counts.slower_than(171)) == (2, 2, 1)
    assert counts.slower_than(5) == 10
    assert VariantCounts().slower_than(150) == 0


def test_the_bounds_of_times_grow_and_end_above_every_timeout() -> None:
    assert list(TIME_BOUNDS_MS) == sorted(set(TIME_BOUNDS_MS))
    assert TIME_BOUNDS_MS[-1] > 30_000


@pytest.mark.parametrize("text", ("[]", "{", '{"stats": [{"name": "x", "value": "y"}]}', "{}"))
def test_what_is_no_statistics_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError, match="here"):
        parse_statistics(text, "here")


def test_an_envoy_that_is_not_there_is_none(tmp_path: Path) -> None:
    files = router_files(tmp_path)
    assert read_statistics(files) is None
    write_bootstrap(files, port=1, admin_port=2, host="127.0.0.1")
    assert admin_address(files) == ("127.0.0.1", 2)
    assert read_statistics(files) is None
