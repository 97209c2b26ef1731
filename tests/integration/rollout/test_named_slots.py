"""Slots that are found by a name, as Services are: Envoy takes the routes, and asks another replica."""

from __future__ import annotations

import json

import pytest

from tests.integration.rollout.conftest import Deployment

pytestmark = pytest.mark.integration


@pytest.fixture
def named(deployment: Deployment) -> Deployment:
    file = deployment.state_dir / "shop" / "slots.json"
    record = json.loads(file.read_text())
    for slot in record["slots"].values():
        slot["host"] = "localhost"
    file.write_text(json.dumps(record))
    return deployment


def test_users_of_stable_and_of_a_candidate_are_served_by_name(named: Deployment) -> None:
    named.first_release()
    named.begin(3)
    met = {named.ask(f"user-{number}").headers["x-headrace-variant"] for number in range(40)}
    assert met == {"stable", "candidate"}
    assert "previous_hosts" in named.files.routes.read_text()
    assert "DnsCluster" in named.files.clusters.read_text()


def test_a_replica_that_breaks_off_costs_nobody_as_another_try_is_made(named: Deployment) -> None:
    named.first_release()
    assert named.ask("user").status_code == 200
    asked = named.stable.mood.asked
    named.stable.mood.resets_left = 2
    assert named.ask("user").status_code == 200
    assert named.stable.mood.asked == asked + 3
