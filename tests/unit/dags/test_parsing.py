from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "tensorflow", "numpy", "pandas", "mlflow", "great_expectations", "kubernetes")
PARSE = """
import json, sys, time
import airflow.sdk
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators import empty, hitl
before = set(sys.modules)
started = time.process_time()
bag = DagBag(sys.argv[1])
seconds = time.process_time() - started  # of CPU: others may be at work on the machine
ranks = {name: getattr(dag.get_task("train_model"), "ranks", None)
         for name, dag in bag.dags.items() if dag.has_task("train_model")}
print(json.dumps({"seconds": seconds, "ranks": ranks, "errors": bag.import_errors, "dags": sorted(bag.dags),
                  "modules": sorted(set(sys.modules) - before)}))
"""


def parse(home: Path, environment: dict[str, str]) -> dict[str, object]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE")}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    own = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "PYTHONPATH": paths,
    }
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(ROOT / "dags")],
        env=kept | own | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


DEPLOYMENT = {
    "HEADRACE_RUNTIME": "local",
    "HEADRACE_STORE": "file:///nonexistent",
    "HEADRACE_STATE": "/nonexistent",
}


def test_all_dags_parse_in_half_a_second_and_import_nothing_heavy(tmp_path: Path) -> None:
    tries = [parse(tmp_path, DEPLOYMENT) for _ in range(2)]
    found = tries[0]
    assert found["errors"] == {}
    assert found["dags"] == [
        "hotfix_stable",
        "pause_or_resume",
        "release_classifier",
        "release_recommender",
        "roll_back",
    ]
    imported = {str(name).split(".")[0] for name in found["modules"]}  # type: ignore[attr-defined]
    assert not imported & set(HEAVY)
    assert min(float(str(one["seconds"])) for one in tries) < 0.5


def test_the_same_dags_parse_with_pods(tmp_path: Path) -> None:
    compute = {"format": "compute_profiles/1", "stages": {"train_model": {"ranks": 2}}}
    (tmp_path / "compute.json").write_text(json.dumps(compute))
    pods = {
        "HEADRACE_RUNTIME": "kubernetes",
        "HEADRACE_COMPUTE": str(tmp_path / "compute.json"),
        "HEADRACE_NAMESPACE": "reco",
        "HEADRACE_IMAGES": "r.example/headrace-{image}:1.4",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "110",  # the provider alone takes seconds
    }
    found = parse(tmp_path, DEPLOYMENT | pods)
    assert found["errors"] == {}
    assert found["dags"] == [
        "hotfix_stable",
        "pause_or_resume",
        "release_classifier",
        "release_recommender",
        "roll_back",
    ]
    assert "headrace_airflow.pod_stage_operator" in str(found["modules"])
    # Picture recipes train alone, whatever the deployment lets recommenders do.
    assert found["ranks"] == {"release_recommender": 2, "release_classifier": 1}


@pytest.mark.parametrize(
    ("changed", "said"),
    (
        pytest.param({"HEADRACE_STORE": ""}, "HEADRACE_STORE: expected", id="no store"),
        pytest.param(
            {"HEADRACE_RUNTIME": "swarm"},
            "HEADRACE_RUNTIME: expected [",
            id="a runtime that this version does not have",
        ),
        pytest.param(
            {"HEADRACE_RUNTIME": "kubernetes"}, "HEADRACE_NAMESPACE: expected", id="pods nowhere"
        ),
    ),
)
def test_a_wrong_deployment_is_an_import_error_with_a_sentence(
    tmp_path: Path, changed: dict[str, str], said: str
) -> None:
    errors = parse(tmp_path, DEPLOYMENT | changed)["errors"]
    assert said in str(errors)
