"""The chart and the code say the same: names, numbers, flags, variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from headrace_airflow.compute_profiles import (
    COMPUTE_PROFILES,
    PRIORITIES,
    STEERING,
    priority_class_objects,
)
from headrace_airflow.deployment import Runtime, read_deployment
from headrace_airflow.reaper import SELECTOR

from tasks.adapters.config_map_records import config_map_name, named_records
from tasks.cli.envoy import _parser as parser_of_envoy
from tasks.cli.options import PASSED_ON
from tasks.cli.shadow import EVERY_ADDRESS, PERCENT, parser_of_shadow
from tasks.contracts.image_tags import STARTED
from tasks.contracts.requests import MODEL_NAME
from tasks.contracts.slot_hosts import slots_text
from tasks.contracts.stages import Image
from tasks.rollout.keeper import parser_of_keeper
from tasks.rollout.metrics_server import HEALTH_PATHS
from tasks.rollout.record import Colour
from tasks.rollout.shadow_routes import ShadowAddress, read_shadow
from tasks.serving.flags import ServerOptions, parse_flags
from tests.unit.helm.rendered import (
    CASES,
    CHART,
    EVERYTHING,
    NAMESPACE,
    ONE_NODE,
    SMALLEST,
    Object,
    containers,
    named,
    objects,
    pods,
    stage_pod,
)
from tests.unit.helm.test_flows import BY_OPERATOR

KUBECONFIG = """\
current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
clusters: [{name: a, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: a, user: {token: t}}]
"""
OUR_OWN_FLAGS = {"bind_address", "drain_seconds", "help"}


def priorities(found: list[Object]) -> dict[str, tuple[int, str]]:
    return {
        one["metadata"]["name"]: (one["value"], one["preemptionPolicy"])
        for one in found
        if one["kind"] == "PriorityClass"
    }


def test_priority_classes_are_those_of_the_node_pools() -> None:
    assert priorities(objects(SMALLEST)) == priorities(
        [dict(one) for one in priority_class_objects()]
    )


def test_every_priority_that_a_pod_names_is_one_of_them() -> None:
    for case in CASES:
        for name, pod in pods(objects(case)):
            assert pod["spec"].get("priorityClassName", "headrace-serve") in PRIORITIES, name


def test_the_quota_counts_the_stages_and_nothing_that_serves() -> None:
    (expression,) = named(objects(SMALLEST), "ResourceQuota", "headrace-stages")["spec"][
        "scopeSelector"
    ]["matchExpressions"]
    counted = set(expression["values"])
    assert counted == set(PRIORITIES) - {"headrace-serve", STEERING}
    batch = {one.priority_class for one in COMPUTE_PROFILES.values()} - {"headrace-serve"}
    assert batch <= counted
    for name, pod in pods(objects(EVERYTHING)):
        assert pod["spec"].get("priorityClassName") not in counted, name


def test_a_model_has_a_slot_of_every_colour_with_an_address() -> None:
    found = objects(EVERYTHING)
    host = named(found, "ConfigMap", "headrace-airflow")["data"]["HEADRACE_SLOT_HOST"]
    for model in ("recommender", "search"):
        for colour in Colour:
            service, _, domain = host.format(model=model, colour=colour.value).partition(".")
            assert domain == f"{NAMESPACE}.svc.cluster.local"
            ports = named(found, "Service", service)["spec"]["ports"]
            assert {port["name"]: port["port"] for port in ports} == {"grpc": 8500, "rest": 8501}
            slot = named(found, "Deployment", service)["spec"]["template"]
            assert slot["metadata"]["labels"]["headrace/colour"] == colour.value


@pytest.mark.parametrize("model", ("a", "a-b", "a0", "router"))
def test_names_of_models_are_names_of_the_code(model: str) -> None:
    assert (MODEL_NAME.fullmatch(model) is not None) == (model != "router")


def slot_arguments(case: str, colour: str = "green") -> list[str]:
    slot = named(objects(case), "Deployment", f"headrace-recommender-{colour}")
    (server,) = slot["spec"]["template"]["spec"]["containers"]
    return server["args"]


def test_our_server_takes_the_flags_of_its_slots() -> None:
    options = parse_flags(slot_arguments(ONE_NODE))
    assert (options.port, options.rest_api_port) == (8500, 8501)
    assert options.bind_address == "0.0.0.0"
    assert options.model_base_path == "/srv/headrace/state/recommender/slots/green"
    assert options.model_name == "recommender"


def test_tensorflow_serving_gets_no_flag_of_ours() -> None:
    arguments = slot_arguments(SMALLEST)
    parse_flags(arguments)  # a subset of tensorflow_model_server's
    names = {word.removeprefix("--").partition("=")[0] for word in arguments}
    assert names.isdisjoint(OUR_OWN_FLAGS)
    assert names <= set(ServerOptions.__dataclass_fields__)


@pytest.mark.parametrize("case", CASES)
def test_airflow_can_read_what_it_is_told(case: str, tmp_path: Path) -> None:
    """The ConfigMap for Airflow's parts, with the template where `airflow-values.yaml` mounts it."""
    found = objects(case)
    told = dict(named(found, "ConfigMap", "headrace-airflow")["data"])
    assert told["HEADRACE_POD_TEMPLATE"] == "/etc/headrace/pod.yaml"
    template = tmp_path / "pod.yaml"
    template.write_text(named(found, "ConfigMap", "headrace-pod-template")["data"]["pod.yaml"])
    deployment = read_deployment({**told, "HEADRACE_POD_TEMPLATE": str(template)})
    assert deployment.runtime is Runtime.KUBERNETES
    assert deployment.pods is not None
    assert deployment.pods.namespace == NAMESPACE
    assert deployment.rollout_state == f"configmap://{NAMESPACE}"
    assert deployment.rollout_account == "headrace-rollout"
    assert deployment.slot_host == told["HEADRACE_SLOT_HOST"]
    state = next(
        mount["mountPath"]
        for mount in stage_pod(found)["spec"]["containers"][0]["volumeMounts"]
        if mount["name"] == "state"
    )
    assert str(deployment.state_dir) == state


@pytest.mark.parametrize("case", CASES)
def test_all_that_share_the_state_mount_one_claim_at_one_place(case: str) -> None:
    places = set()
    for _, pod in pods(objects(case)):
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["spec"].get("volumes", [])
            if volume["name"] == "state"
        }
        for container in containers(pod):
            for mount in container.get("volumeMounts", []):
                if mount["name"] == "state":
                    places.add((claims["state"], mount["mountPath"]))
                    read_only = container["name"] == "server"
                    assert mount.get("readOnly", False) is read_only
    assert len(places) == 1


def test_policies_select_what_the_operator_and_the_reaper_mark_stages_by() -> None:
    marks = dict(word.split("=") for word in SELECTOR.split(","))
    assert marks.items() <= BY_OPERATOR.items()
    chosen = named(objects(SMALLEST), "NetworkPolicy", "headrace-stage")["spec"]["podSelector"]
    assert chosen["matchLabels"] == marks
    # What Helm makes says another manager: the reaper never takes a pod of the chart for a stage's.
    for name, pod in pods(objects(SMALLEST)):
        labels = pod.get("metadata", {}).get("labels", {})
        assert not marks.items() <= labels.items(), name


def test_envoy_and_keeper_share_what_envoy_watches_and_nothing_else() -> None:
    router = named(objects(SMALLEST), "Deployment", "headrace-router")["spec"]["template"]["spec"]
    envoy, keeper = router["containers"]
    mounts = {
        one["name"]: {mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]}
        for one in (envoy, keeper)
    }
    assert set(mounts["envoy"]) == {"routes", "tmp"}
    assert mounts["envoy"]["routes"] == mounts["keeper"]["routes"] == "/run/headrace"
    assert next(one for one in router["volumes"] if one["name"] == "routes")["emptyDir"]
    grace = router["terminationGracePeriodSeconds"]
    linger = next(int(word.partition("=")[2]) for word in keeper["args"] if "linger" in word)
    drain = next(int(word.partition("=")[2]) for word in envoy["args"] if "drain" in word)
    assert drain < linger < grace


def test_envoy_and_keeper_take_their_flags() -> None:
    router = named(objects(SMALLEST), "Deployment", "headrace-router")["spec"]["template"]["spec"]
    envoy, keeper = (one for one in router["containers"])
    assert envoy["command"] == ["headrace", "envoy"]
    of_envoy = parser_of_envoy().parse_args(envoy["args"])
    of_keeper = parser_of_keeper().parse_args(keeper["args"])
    assert of_envoy.router_dir == of_keeper.router_dir == Path("/run/headrace")
    assert (of_envoy.host, of_envoy.port) == ("0.0.0.0", envoy["ports"][0]["containerPort"])
    assert of_keeper.metrics_host == "0.0.0.0"
    assert of_keeper.metrics_port == keeper["ports"][0]["containerPort"]
    assert keeper["startupProbe"]["httpGet"]["path"] in HEALTH_PATHS
    # What makes one keeper hang makes all hang: no probe may take the routers away (ADR 13).
    assert keeper.keys().isdisjoint({"readinessProbe", "livenessProbe"})


def test_comparator_and_keepers_take_their_flags_and_mean_the_same_ports() -> None:
    found = objects(EVERYTHING)
    pod = named(found, "Deployment", "headrace-shadow")["spec"]["template"]["spec"]
    (shadow,) = pod["containers"]
    program, command = shadow["command"]
    assert program == "headrace"
    assert PASSED_ON[command] in STARTED[Image.TENSORFLOW]  # the image that `images.shadow` names
    options = parser_of_shadow().parse_args(shadow["args"])
    assert options.host == EVERY_ADDRESS  # it says nothing of itself: the ConfigMap does
    offered = {port["name"]: port["containerPort"] for port in shadow["ports"]}
    assert offered == {"rest": options.port, "grpc": options.grpc_port}

    service = named(found, "Service", "headrace-shadow")["spec"]
    assert service.keys() == {"selector", "ports"}  # an address of its own, inside the cluster
    assert {one["name"]: one["port"] for one in service["ports"]} == offered
    router = named(found, "Deployment", "headrace-router")["spec"]["template"]["spec"]
    keeper = next(one for one in router["containers"] if one["name"] == "keeper")
    file = parser_of_keeper().parse_args(keeper["args"]).shadow
    (mount,) = [one for one in keeper["volumeMounts"] if one["mountPath"] == str(file.parent)]
    (volume,) = [one for one in router["volumes"] if one["name"] == mount["name"]]
    told = named(found, "ConfigMap", volume["configMap"]["name"])["data"]
    assert told.keys() == {file.name}


def test_keepers_are_told_what_a_comparator_would_say_of_itself(tmp_path: Path) -> None:
    file = tmp_path / "shadow.json"
    file.write_text(named(objects(EVERYTHING), "ConfigMap", "headrace-shadow")["data"][file.name])
    host = f"headrace-shadow.{NAMESPACE}.svc.cluster.local"
    assert read_shadow(file) == ShadowAddress(host=host, port=9911, grpc=9913, percent=2.5)
    assert "shadow_address/2" in file.read_text()


def test_a_comparator_is_off_and_then_asks_as_often_as_on_one_machine() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["shadow"]
    assert (values["enabled"], values["percent"]) == (False, PERCENT)
    assert not [one for one in objects(SMALLEST) if "shadow" in json.dumps(one)]


def test_one_comparator_writes_a_rollouts_report_and_goes_after_users_and_stages() -> None:
    shadow = named(objects(EVERYTHING), "Deployment", "headrace-shadow")["spec"]
    assert (shadow["replicas"], shadow["strategy"]) == (1, {"type": "Recreate"})
    assert "priorityClassName" not in shadow["template"]["spec"]


def test_a_comparator_finds_records_and_slots_as_the_keepers_do() -> None:
    def told(name: str, container: str) -> dict[str, str]:
        pod = named(objects(EVERYTHING), "Deployment", name)["spec"]["template"]["spec"]
        (found,) = [one for one in pod["containers"] if one["name"] == container]
        return {one["name"]: one["value"] for one in found["env"] if "value" in one}

    assert told("headrace-shadow", "shadow") == told("headrace-router", "keeper")


@pytest.mark.parametrize("case", CASES)
def test_a_keeper_finds_records_and_slots_by_its_variables(case: str, tmp_path: Path) -> None:
    found = objects(case)
    router = named(found, "Deployment", "headrace-router")["spec"]["template"]["spec"]
    keeper = next(one for one in router["containers"] if one["name"] == "keeper")
    told = {one["name"]: one["value"] for one in keeper["env"] if "value" in one}
    config = tmp_path / "config"  # stands for the token and the address that a pod has
    config.write_text(KUBECONFIG)
    records = named_records({**told, "KUBECONFIG": str(config)})
    assert records is not None
    assert records.namespace == NAMESPACE
    for model in records.names:
        named(found, "ConfigMap", config_map_name(model))
        text = slots_text(told["HEADRACE_SLOT_HOST"], Path(told["HEADRACE_STATE"]), model)
        for colour, slot in json.loads(text)["slots"].items():
            service, _, domain = slot["host"].partition(".")
            assert domain == f"{NAMESPACE}.svc.cluster.local"
            server = named(found, "Deployment", service)["spec"]["template"]["spec"]["containers"][
                0
            ]
            assert f"--model_base_path={slot['directory']}" in server["args"], colour


def test_a_slot_that_ends_serves_on_longer_than_envoy_takes_to_leave_it() -> None:
    """Envoy asks DNS anew every 5 s by default."""
    slot = named(objects(SMALLEST), "Deployment", "headrace-recommender-blue")["spec"]["template"]
    (server,) = slot["spec"]["containers"]
    seconds = int(server["lifecycle"]["preStop"]["exec"]["command"][-1].split()[1])
    assert 5 < seconds < slot["spec"]["terminationGracePeriodSeconds"]
