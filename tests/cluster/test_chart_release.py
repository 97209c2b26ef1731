"""The release DAG in pods against an installed chart: promoted, and served by the router's Service.

Part of `make cluster-release`; it takes minutes. What the chart gives Airflow is all that it has here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.built_images import STAGES, demand_images
from tests.cluster.chart_release import ChartRelease, chart_release
from tests.cluster.chart_world import ChartWorld, find_program
from tests.cluster.test_release_in_pods import assert_promoted_by_sealed_work

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def world(cluster: None) -> Iterator[ChartRelease]:
    demand_images()
    folder = Path(
        tempfile.mkdtemp(prefix="headrace-chart-", dir=os.environ.get("HEADRACE_SCRATCH"))
    )
    chart = ChartWorld(
        folder=folder,
        kubectl_path=find_program("kubectl"),
        helm_path=find_program("helm"),
        images=STAGES,
    )
    with chart_release(chart) as made:
        yield made


def test_a_first_release_is_promoted_by_pods_with_what_the_chart_gives_them(
    world: ChartRelease,
) -> None:
    assert world.served_version() == 0
    run = world.release("popularity")
    assert_promoted_by_sealed_work(world, run, 1)
    said = world.chart.helm("test", "reco", "--logs", "--timeout", "120s")
    assert "recommender: serves: 200" in said
    found = world.watch.accounts
    assert found.keys() == {"headrace-stage", "headrace-rollout"}
    assert found["headrace-rollout"] == {
        "request_release",
        "stage_bundle",
        "promote_release",
        "mirror_release",
    }
