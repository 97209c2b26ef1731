"""Run a stage as a pod: KubernetesPodOperator's pod, our own idea of whose it is and how it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    AirflowTaskTimeout,
)
from kubernetes.client import CoreV1Api
from kubernetes.client import models as k8s

from headrace_airflow.compute_choice import asked_of
from headrace_airflow.compute_profiles import StageCompute, pod_fields
from headrace_airflow.deployment import Deployment
from headrace_airflow.links import ArtifactLink, GateReportLink
from headrace_airflow.node_fit import NodeFacts, why_never
from headrace_airflow.nodes_ahead import NodesAhead
from headrace_airflow.pod_api import (
    ApiAwayError,
    Patience,
    PodApi,
    SharedConnection,
    cluster_hook,
)
from headrace_airflow.pod_group import LAUNCHER, PodGroup
from headrace_airflow.pod_identity import (
    MANAGED_BY,
    MAX_TRIES,
    REQUEST,
    REQUEST_DIGEST,
    TASK_LABEL,
    PodOutcome,
    PodRecord,
    TaskKey,
)
from headrace_airflow.pod_life import SLICE_SECONDS, AskedToEndError, PodLife, Waits
from headrace_airflow.pod_news import CONTAINER, PodNews, PodState, utc_now
from headrace_airflow.pod_profiles import demand_ranks, image_name
from headrace_airflow.pod_roles import POD_ROLES, ROLE_LABEL
from headrace_airflow.pod_settings import PodSettings, with_tag
from headrace_airflow.pod_trigger import PodTrigger, state_in_airflow
from headrace_airflow.rollout_wait import defer_for_rollout, demand_over
from headrace_airflow.sealed_store import SealedStore
from headrace_airflow.stage_call import StageCall, conclude, last_word
from tasks.contracts.artifacts import parse_termination
from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.json_types import digest_of_json
from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import ROLLOUT_STAGES, Stage

REQUEST_FOLDER, REQUEST_FILE = "/headrace", "request.json"
MAX_REQUEST_BYTES = 200_000  # the API holds 256 KiB of annotations
# Sooner, the scheduler may hear of our end only after it queued the task anew, and fails that try.
RESCHEDULE_DELAY = timedelta(seconds=10)
# States in which our try goes on or another one has the pod; in any other a person ended the task.
GOES_ON = frozenset({"running", "deferred", "up_for_retry", "up_for_reschedule", "queued"})


class StageOperator(KubernetesPodOperator):
    """Run one stage in its own image; green only when its sealed manifest is there."""

    ui_color = "#e8f1f8"
    template_fields: Sequence[str] = (*KubernetesPodOperator.template_fields, "request_json")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **KubernetesPodOperator.template_fields_renderers,
        "request_json": "json",
    }
    overwrite_rtif_after_execution = True  # the page "Rendered templates" shows the request

    def __init__(
        self,
        *,
        call: StageCall,
        deployment: Deployment,
        compute: StageCompute | None = None,
        ranks: int | None = None,
        **kwargs: Any,
    ) -> None:
        pods = _demand_pods(deployment)
        table = deployment.compute
        compute = compute or table.compute_for(call.stage)
        ranks = table.stages[call.stage].ranks if ranks is None else ranks
        demand_ranks(call.stage, ranks)
        longest_run = table.stages[call.stage].longest_run
        super().__init__(
            **{
                "kubernetes_conn_id": None,
                "namespace": pods.namespace,
                "image": pods.image(image_name(call.stage, compute.profile)),
                "pod_template_file": None if pods.template is None else str(pods.template),
                "arguments": [call.stage.value, f"{REQUEST_FOLDER}/{REQUEST_FILE}"],
                "random_name_suffix": False,
                "do_xcom_push": False,  # no sidecar: the address is all that is passed on
                "deferrable": pods.deferrable,
                "active_deadline_seconds": int(longest_run.total_seconds()),
                "base_container_name": CONTAINER,
                "termination_message_policy": "FallbackToLogsOnError",
                **rollout_identity(call.stage, deployment),
                **({"cmds": list(LAUNCHER)} if ranks > 1 else {}),
                **kwargs,
            }
        )
        self.call = call
        self.deployment = deployment
        self.compute = compute
        self.ranks = ranks  # pods that work together; rank 0 seals
        self.request_json = ""
        self.sealed_address = ""
        is_gate = call.stage is Stage.GATE_ARTIFACT
        self.operator_extra_links = (GateReportLink() if is_gate else ArtifactLink(),)
        self._asked_to_end = False
        self._heeds_requests_to_end = True
        self._nodes_ahead: NodesAhead | None = None

    @cached_property
    def hook(self) -> Any:
        """Return the same way to the cluster as the triggerer and the reaper take."""
        return cluster_hook()

    def execute(self, context: Any) -> Any:
        """Run the stage and return its artifact's address."""
        if not self.compute.profile.scales_from_zero:
            self._nodes_ahead = NodesAhead(str(self.namespace), self._shared)
        return self._guarded(context, None, begins=True)

    def after_wait(self, context: Any, event: Mapping[str, Any]) -> Any:
        """Begin once the rollout no longer waits."""
        demand_over(event)
        return self.execute(context)

    def resume(self, context: Any, event: Mapping[str, Any]) -> Any:
        """Go on where the trigger left off: with its news, or with a look of our own."""
        news = event.get("news")
        return self._guarded(context, None if news is None else PodNews.parse(news))

    def on_kill(self) -> None:
        """Only take note: a worker's shutdown and a person's kill look alike from here."""
        self._asked_to_end = True

    def _guarded(self, context: Any, news: PodNews | None, *, begins: bool = False) -> str:
        life: PodLife | None = None
        try:
            request = self._request(context)
            if begins:
                defer_for_rollout(self, request.release)
            self._choose_compute(context)
            life = self._life(context)
            return self._sealed(context, life, request, news)
        except AskedToEndError:
            raise self._end(context, life) from None
        except AirflowSkipException:
            raise
        except AirflowTaskTimeout:
            self._heeds_requests_to_end = False
            if life is not None:
                self.log.info("task timeout: pod %s is deleted", life.remove_now())
            raise
        except BadRequestError as error:
            refusal = AirflowFailException(str(error))
            raise last_word(self.call, refusal, context["ti"], int(self.retries)) from error
        except AirflowException as error:
            raise last_word(self.call, error, context["ti"], int(self.retries)) from error

    def _request(self, context: Any) -> StageRequest:
        try:
            request = self.call.request(context, self.deployment.store_url)
            self.call.skip_if_told(request, context)
        except HeadraceError as error:
            raise AirflowFailException(str(error)) from error
        self.request_json = request.to_text()
        size = len(self.request_json.encode())
        if size > MAX_REQUEST_BYTES:
            message = (
                f"{self.call.stage.value}: expected a request of at most {MAX_REQUEST_BYTES} bytes, "
                f"found {size}; pass what is large as an artifact"
            )
            raise AirflowFailException(message)
        return request

    def _choose_compute(self, context: Any) -> None:
        """Follow the run's form within what the deployment allows: pool, amounts, image."""
        stage = self.call.stage
        asked = asked_of(context.get("params") or {}, stage)
        if asked is None:
            return
        before = self.compute.profile
        self.compute = self.deployment.compute.compute_for(stage, asked)
        if self.compute.profile != before:
            pods = _demand_pods(self.deployment)
            self.image = pods.image(image_name(stage, self.compute.profile))

    def _sealed(
        self, context: Any, life: PodLife, request: StageRequest, news: PodNews | None
    ) -> str:
        digest = digest_of_json(request.to_text())
        if news is None or news.uid != life.record.uid:
            news = None  # of an older attempt
        if news is None:
            news = life.known_end(digest)
        while True:
            if news is None:
                life.acquire(lambda record: self._new_pod(context, life, record, request), digest)
                news = self._waited(life)
            elif not news.over:
                news = self._waited(life)
            if news.state is PodState.DISRUPTED:
                life.disrupted(news)
                news = None
                continue
            return self._concluded(context, life, news, digest)

    def _new_pod(
        self, context: Any, life: PodLife, record: PodRecord, request: StageRequest
    ) -> dict[str, Any]:
        if not record.disruptions:  # else its node has just gone, and another may come
            self._refuse_what_fits_nowhere(life.api)
        return self.pod_body(context, record, request)

    def _refuse_what_fits_nowhere(self, api: PodApi) -> None:
        profile = self.compute.profile
        if profile.scales_from_zero:
            return
        ahead = self._nodes_ahead
        nodes = api.nodes() if ahead is None else ahead.take(api)
        if nodes is None:
            return
        facts = [NodeFacts.from_api(node) for node in nodes]
        why = why_never(pod_fields(self.compute), profile, facts, pods=self.ranks)
        if why is not None:
            message = f"{self.call.stage.value}: {why}"
            raise BadRequestError(message)

    def _waited(self, life: PodLife) -> PodNews:
        if not self.deferrable:
            return life.follow()
        if not life.just_created:
            news = life.look()
            if news.over:
                life.print_log()
                return news
            life.demand_patience(news)
        self._pause(0)
        trigger = PodTrigger(
            namespace=life.api.namespace,
            record=life.record.to_json(),
            waits=asdict(life.waits),
        )
        self.defer(trigger=trigger, method_name="resume")
        raise AssertionError  # defer raises

    def _concluded(self, context: Any, life: PodLife, news: PodNews, digest: str) -> str:
        ti, end = context["ti"], news.end
        self.log.info("%s", end.sentence)
        evidence = parse_termination(end.sentence)
        self.sealed_address = "" if evidence is None else str(evidence.address)
        store = SealedStore(url=self.deployment.store_url)
        try:
            address = conclude(self.call.stage, end, store, ti)
        except AirflowException:
            life.close(PodOutcome.FAILED)
            life.api.delete_own(life.record.name, news.uid)
            raise
        ti.xcom_push(key="return_value", value=address)
        life.close_sealed(digest, end.sentence)
        try:
            life.api.delete_own(life.record.name, news.uid)
        except ApiAwayError as away:  # the work is done; its pod has ended and takes no room
            self.log.warning("pod %s stays for the reaper: %s", life.record.name, away)
        return address

    def _end(self, context: Any, life: PodLife | None) -> Exception:
        """Leave the pod to the next try, or remove it where a person ended the task."""
        self._heeds_requests_to_end = False
        stage = self.call.stage.value
        try:
            state = state_in_airflow(context["ti"])
        except Exception:
            self.log.warning("Airflow does not say whether the task goes on", exc_info=True)
            state = "running"
        if state in GOES_ON or life is None:
            self.log.info("%s: its worker ends; the pod goes on and is taken up again", stage)
            return AirflowRescheduleException(utc_now() + RESCHEDULE_DELAY)
        uid = life.remove_now()
        message = (
            f"{stage}: ended by a person (task is {state}): pod {life.record.name} {uid} deleted"
        )
        return AirflowException(message)

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            if self._asked_to_end and self._heeds_requests_to_end:
                raise AskedToEndError
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, SLICE_SECONDS))

    def _life(self, context: Any) -> PodLife:
        pods = _demand_pods(self.deployment)
        return PodLife(
            key=TaskKey.of(context),
            max_tries=int(context["ti"].max_tries),
            api=PodApi(
                str(self.namespace),
                Patience(pause=self._pause),
                self._shared.connected,
                self._shared.forget,
            ),
            state=context["task_state_store"],
            waits=Waits(
                queue_seconds=pods.queue_seconds,
                start_seconds=pods.start_seconds,
                poll_seconds=pods.poll_seconds,
                disruptions=pods.disruptions,
                group_seconds=pods.group_seconds,
            ),
            say=lambda text: self.log.info("%s", text),
            pause=self._pause,
            group=self._group if self.ranks > 1 else None,
        )

    @cached_property
    def _shared(self) -> SharedConnection:
        return SharedConnection(self._connected)

    def _connected(self) -> CoreV1Api:
        """Connect anew; KubernetesPodOperator's own questions take the same way."""
        self.hook = cluster_hook()
        return self.hook.core_v1_client

    def _group(self, record: PodRecord) -> PodGroup:
        pods = _demand_pods(self.deployment)
        join_seconds = pods.group_seconds + pods.start_seconds
        return PodGroup.of_pod(record.name, self.ranks, join_seconds)

    def pod_body(self, context: Any, record: PodRecord, request: StageRequest) -> dict[str, Any]:
        """Return the pod of an attempt, as the API takes it."""
        key = TaskKey.of(context)
        text = request.to_text()
        self.name = record.name
        self.image = with_tag(str(self.image), self.call.stage)
        pod = self.build_pod_request_obj(context)
        role = POD_ROLES[self.call.stage]
        pod.metadata.labels.update({**MANAGED_BY, TASK_LABEL: key.digest, ROLE_LABEL: role.value})
        pod.metadata.annotations = {
            **(pod.metadata.annotations or {}),
            **key.annotations(record.attempt),
            MAX_TRIES: str(record.max_tries),
            REQUEST_DIGEST: digest_of_json(text),
            REQUEST: text,
        }
        _add_request(pod.spec)
        _harden(pod.spec)
        base = _base(pod.spec)
        base.env = [
            *(base.env or []),
            k8s.V1EnvVar(name="HEADRACE_STORE", value=self.deployment.store_url),
            k8s.V1EnvVar(name="HEADRACE_STATE", value=str(self.deployment.state_dir)),
            *_rollout_variables(self.call.stage, self.deployment),
        ]
        body = self.client.api_client.sanitize_for_serialization(pod)
        whole = pod_fields(self.compute).merged_into(body, CONTAINER)
        return whole if self.ranks == 1 else self._group(record).as_rank(whole, 0)


def rollout_identity(stage: Stage, deployment: Deployment) -> dict[str, Any]:
    """Return whom a stage's pod speaks to the API as: only stages of a rollout are anybody."""
    if deployment.rollout_state is None or stage not in ROLLOUT_STAGES:
        return {"automount_service_account_token": False}
    account = deployment.rollout_account
    named = {} if account is None else {"service_account_name": account}
    return {"automount_service_account_token": True, **named}


def _rollout_variables(stage: Stage, deployment: Deployment) -> list[Any]:
    if deployment.rollout_state is None or stage not in ROLLOUT_STAGES:
        return []
    found = {
        "HEADRACE_ROLLOUT_STATE": deployment.rollout_state,
        "HEADRACE_SLOT_HOST": deployment.slot_host,
    }
    return [k8s.V1EnvVar(name=name, value=value) for name, value in found.items() if value]


def _demand_pods(deployment: Deployment) -> PodSettings:
    if deployment.pods is None:
        message = (
            "StageOperator: expected a deployment with HEADRACE_RUNTIME=kubernetes, found local"
        )
        raise BadRequestError(message)
    return deployment.pods


def _base(spec: Any) -> Any:
    return next(one for one in spec.containers if one.name == CONTAINER)


def _add_request(spec: Any) -> None:
    """Show the annotation as a file: no shell, no argument limit, and `$(...)` stays as it is."""
    item = k8s.V1DownwardAPIVolumeFile(
        path=REQUEST_FILE,
        field_ref=k8s.V1ObjectFieldSelector(field_path=f"metadata.annotations['{REQUEST}']"),
    )
    spec.volumes = [
        *(spec.volumes or []),
        k8s.V1Volume(
            name="headrace-request", downward_api=k8s.V1DownwardAPIVolumeSource(items=[item])
        ),
        k8s.V1Volume(name="headrace-tmp", empty_dir=k8s.V1EmptyDirVolumeSource()),
    ]
    base = _base(spec)
    base.volume_mounts = [
        *(base.volume_mounts or []),
        k8s.V1VolumeMount(name="headrace-request", mount_path=REQUEST_FOLDER, read_only=True),
        k8s.V1VolumeMount(name="headrace-tmp", mount_path="/tmp"),  # noqa: S108  the pod's own
    ]


def _harden(spec: Any) -> None:
    security = spec.security_context or k8s.V1PodSecurityContext()
    if isinstance(security, dict):
        security = k8s.V1PodSecurityContext(**security)
    security.run_as_non_root = True
    security.seccomp_profile = k8s.V1SeccompProfile(type="RuntimeDefault")
    spec.security_context = security
    _base(spec).security_context = k8s.V1SecurityContext(
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
    )
