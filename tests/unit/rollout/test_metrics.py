from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from headrace_airflow.bake import LONGEST_SILENCE

from tasks.cli.options import COMMANDS
from tasks.contracts.requests import PLANS
from tasks.rollout.comparison import Comparison, Ranking, ShadowReport, report_text
from tasks.rollout.envoy_stats import SlotCounts, Statistics, VariantCounts, VariantName
from tasks.rollout.metrics import render_metrics
from tasks.rollout.record import Colour, StateRecord
from tasks.rollout.state import open_state

REPOSITORY = Path(__file__).parents[3]
MONITORING = REPOSITORY / "helm" / "headrace" / "monitoring"
RULES = MONITORING / "rollout_alerts.yaml"
DASHBOARD = MONITORING / "rollout_dashboard.json"
ALERT_PLACE = "docs/runbooks/alerts.md"
ALERTS = REPOSITORY / ALERT_PLACE
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None,
    reason="promtool is not installed (`make setup-prometheus` as root installs Debian's)",
)


@pytest.fixture
def record(tmp_path: Path) -> StateRecord:
    state = open_state(tmp_path, "shop")
    state.reserve_slot("first")
    state.promote("first")
    state.reserve_slot("second")
    state.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=50)
    return state.peek()


def counted() -> Statistics:
    name = VariantName(model="shop", variant="candidate", release_number=2)
    counts = VariantCounts(
        completed=40,
        failed=1,
        failed_rpcs=2,
        retried=3,
        within_ms={5.0: 30, 140.0: 39, 60000.0: 40},
    )
    return Statistics(
        variants={name: counts},
        slots={("shop", Colour.GREEN): SlotCounts(asked=38, ejections=1)},
    )


def test_every_count_names_model_variant_and_release(record: StateRecord) -> None:
    text = render_metrics(counted(), [record], 1_700_000_000.25)
    mine = 'model="shop",variant="candidate",release="2"'
    for line in (
        f"headrace_requests_total{{{mine}}} 40",
        f'headrace_failed_requests_total{{{mine},by="code"}} 1',
        f'headrace_failed_requests_total{{{mine},by="grpc_status"}} 2',
        f"headrace_given_up_tries_total{{{mine}}} 3",
        f'headrace_request_duration_seconds_bucket{{{mine},le="0.005"}} 30',
        f'headrace_request_duration_seconds_bucket{{{mine},le="0.14"}} 39',
        f'headrace_request_duration_seconds_bucket{{{mine},le="+Inf"}} 40',
        f"headrace_request_duration_seconds_count{{{mine}}} 40",
        'headrace_candidate_slot_requests_total{model="shop",slot="green"} 38',
        'headrace_candidate_slot_ejections_total{model="shop",slot="green"} 1',
        'headrace_rollout_phase{model="shop",phase="stepping"} 1',
        'headrace_rollout_phase{model="shop",phase="paused"} 0',
        'headrace_candidate_share_ratio{model="shop"} 0.05',
        'headrace_candidate_refused{model="shop"} 0',
        'headrace_release_number{model="shop",variant="stable"} 1',
        'headrace_release_number{model="shop",variant="candidate"} 2',
        "headrace_keeper_read_timestamp_seconds 1700000000.25",
    ):
        assert line in text.splitlines()


def test_what_the_comparator_saw_is_a_metric(record: StateRecord) -> None:
    text = render_metrics(counted(), [record], 0.0, [shadow_report()])
    lines = text.splitlines()
    mine = 'model="shop",release="2"'
    assert f"headrace_shadow_compared_total{{{mine}}} 1" in lines
    assert 'headrace_shadow_dropped_total{reason="queue"} 3' in lines
    assert f'headrace_shadow_overlap_ratio{{{mine},depth="10"}} 0.5' in lines
    assert f"headrace_shadow_rank_biased_overlap{{{mine}}} 0.45" in lines
    assert any(line.startswith("headrace_shadow_score_stability_index{") for line in lines)


def shadow_report() -> ShadowReport:
    seen = Comparison(model="shop", candidate=2, stable=1, since="2026-11-26T00:00:00Z")
    seen.add(Ranking(("b", "c"), (0.6, 0.5)), Ranking(("a", "b"), (0.9, 0.1)))
    return ShadowReport.parse(report_text(seen, {"queue": 3}), "here")


def test_a_slot_that_does_not_answer_is_a_metric(record: StateRecord) -> None:
    text = render_metrics(counted(), [replace(record, unready=(Colour.GREEN,))], 0.0)
    assert 'headrace_slot_ready{model="shop",slot="blue"} 1' in text
    assert 'headrace_slot_ready{model="shop",slot="green"} 0' in text


def test_who_or_what_paused_a_step_is_a_metric(tmp_path: Path, record: StateRecord) -> None:
    assert 'headrace_rollout_paused{model="shop",by="slot"} 0' in render_metrics(
        counted(), [record], 0.0
    )
    state = open_state(tmp_path, "shop")
    state.look([Colour.GREEN])
    text = render_metrics(counted(), [state.peek()], 0.0)
    assert 'headrace_rollout_paused{model="shop",by="slot"} 1' in text
    assert 'headrace_rollout_paused{model="shop",by="person"} 0' in text


def test_every_alert_leads_to_its_row_of_the_runbook() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    rows = re.findall(r"^\| `(Headrace\w+)`[^|]*\|", ALERTS.read_text(), flags=re.MULTILINE)
    assert rows == [one["alert"] for one in rules]  # the same order, and none that is gone
    said = [one["annotations"]["description"] for one in rules]
    assert all(re.findall(r"docs/runbooks/\w+\.md", text) == [ALERT_PLACE] for text in said), said


def test_alerts_and_their_runbook_name_commands_and_dags_that_there_are() -> None:
    text = RULES.read_text() + ALERTS.read_text()
    asked = set(re.findall(r"`headrace (\w+)", text))
    assert asked <= COMMANDS.keys()
    assert asked >= {"hotfix", "resume", "rollback", "status"}
    dags = {path.stem for path in (REPOSITORY / "dags").glob("*.py")}
    assert set(re.findall(r"DAG `(\w+)`", text)) <= dags


def test_a_person_is_called_long_before_a_silent_candidate_is_rolled_back() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    (called,) = [one for one in rules if one["alert"] == "HeadraceRolloutPausedBySlot"]
    minutes = LONGEST_SILENCE.total_seconds() / 60
    waited = int(called["for"].removesuffix("m"))
    assert waited <= minutes / 3
    assert (
        f"in {minutes - waited:.0f} minutes it is rolled back" in called["annotations"]["summary"]
    )


def test_a_candidate_that_was_cut_is_a_metric(tmp_path: Path, record: StateRecord) -> None:
    state = open_state(tmp_path, "shop")
    state.cut("second", record.status.step or 0, numbers={})
    text = render_metrics(counted(), [state.peek()], 0.0)
    assert 'headrace_candidate_refused{model="shop"} 1' in text
    assert 'headrace_candidate_share_ratio{model="shop"} 0' in text


def test_lines_that_were_dropped_are_a_metric(record: StateRecord) -> None:
    text = render_metrics(counted(), [record], 0.0, dropped_lines=7)
    assert "headrace_dropped_access_lines_total 7" in text


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_alerts_and_panels_ask_for_all_metrics_that_there_are_and_no_others(
    record: StateRecord,
) -> None:
    text = render_metrics(counted(), [record], 0.0, [shadow_report()], failed_looks={"shop": 0})
    known = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line[0] != "#"}
    asked = set(re.findall(r"\bheadrace_\w+", "\n".join([*expressions(), RULES.read_text()])))
    assert asked <= known
    assert {name for name in known if not name.endswith("_count")} <= asked  # of the histogram


def test_panels_have_places_and_numbers_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels) == len({panel["id"] for panel in panels})


def promtool(*arguments: str, text: str | None = None) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_reads_the_metrics(record: StateRecord) -> None:
    promtool("check", "metrics", text=render_metrics(counted(), [record], 0.0))


@needs_promtool
def test_prometheus_fires_each_alert_when_it_should_and_not_before(tmp_path: Path) -> None:
    promtool("check", "rules", str(RULES))
    played = Path(__file__).with_name("alerts_test.yaml").read_text().replace("RULES", str(RULES))
    (tmp_path / "test.yaml").write_text(played)
    promtool("test", "rules", str(tmp_path / "test.yaml"))


@needs_promtool
def test_prometheus_reads_the_panels_expressions(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": asked.replace("$model", "shop")}
        for number, asked in enumerate(expressions())
    ]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "x", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yaml"))
