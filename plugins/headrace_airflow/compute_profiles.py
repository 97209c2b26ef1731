"""Node pools by name: where a pod may land, what it asks for, who gives way. Pure, no client.

`StageCompute` is one profile with amounts that its largest node can hold; `pod_fields` says in the
API's own field names (camelCase) what that means for a pod.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json

GPU = "nvidia.com/gpu"
POOL_LABEL = "headrace/pool"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PROFILE_LABEL = "headrace/profile"
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
MIN_CPU_CORES = 0.1
MIN_MEMORY_GIB = 0.125

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)


class ProfileName(StrEnum):
    """The node pools that a stage may be sent to."""

    CPU = "cpu"
    GPU_TRAIN = "gpu-train"
    GPU_SERVE = "gpu-serve"
    SPOT_GPU = "spot-gpu"


def _demand(condition: bool, where: str, expected: str, found: object) -> None:
    if not condition:
        message = f"{where}: expected {expected}, found {found!r:.200}"
        raise BadRequestError(message)


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """A taint that a pod may stand on."""

    key: str
    value: str | None = None  # None: any value
    effect: str = "NoSchedule"

    def __post_init__(self) -> None:
        """Refuse what the API would refuse."""
        _demand(bool(_LABEL_KEY.fullmatch(self.key)), "toleration", "a taint's key", self.key)
        _demand(
            self.value is None or bool(_LABEL_VALUE.fullmatch(self.value)),
            f"toleration {self.key}",
            "a taint's value or none for any",
            self.value,
        )
        _demand(self.effect in EFFECTS, f"toleration {self.key}", f"one of {EFFECTS}", self.effect)

    @property
    def fields(self) -> dict[str, Json]:
        """Return the toleration as the API writes it."""
        if self.value is None:
            return {"key": self.key, "operator": "Exists", "effect": self.effect}
        return {
            "key": self.key,
            "operator": "Equal",
            "value": self.value,
            "effect": self.effect,
        }


@dataclass(frozen=True, kw_only=True)
class ComputeProfile:
    """One node pool as a pod sees it."""

    name: ProfileName
    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    gpus: int = 0
    priority_class: str
    queue: str  # Kueue's LocalQueue; where there is no Kueue the label means nothing
    largest_cpu_cores: float  # what the largest node of the pool leaves to one pod
    largest_memory_gib: float
    spot: bool = False  # may be taken away at any time: losing the node is not the stage's failure
    scales_from_zero: bool = False  # no such node now does not mean that there never will be one

    def __post_init__(self) -> None:
        """Refuse profiles that the API would refuse or that no node can hold."""
        where = f"compute profile {self.name}"
        for key, value in self.node_selector:
            _demand(bool(_LABEL_KEY.fullmatch(key)), where, "a label's key in node_selector", key)
            _demand(bool(_LABEL_VALUE.fullmatch(value)), where, f"a label's value for {key}", value)
        _demand(0 <= self.gpus <= 16, where, "0 <= gpus <= 16", self.gpus)
        for field, name in (("priority_class", self.priority_class), ("queue", self.queue)):
            _demand(bool(_NAME.fullmatch(name)), where, f"a DNS label as {field}", name)
        _demand(
            self.largest_cpu_cores >= MIN_CPU_CORES,
            where,
            f"largest_cpu_cores >= {MIN_CPU_CORES}",
            self.largest_cpu_cores,
        )
        _demand(
            self.largest_memory_gib >= MIN_MEMORY_GIB,
            where,
            f"largest_memory_gib >= {MIN_MEMORY_GIB}",
            self.largest_memory_gib,
        )
        expected = "no GPU" if self.name is ProfileName.CPU else "at least one GPU"
        _demand((self.gpus > 0) == (self.name is not ProfileName.CPU), where, expected, self.gpus)


_GPU_TAINT = Toleration(key=GPU)
_SPOT_TAINT = Toleration(key="headrace/spot", value="true")


def _pool(name: ProfileName) -> tuple[tuple[str, str], ...]:
    return ((POOL_LABEL, name.value),)


# Sizes are those of common nodes less what the system keeps: 16 cores and 64 GiB, one GPU each.
COMPUTE_PROFILES: Mapping[ProfileName, ComputeProfile] = MappingProxyType(
    {
        ProfileName.CPU: ComputeProfile(  # no selector: GPU nodes keep others away by their taint
            name=ProfileName.CPU,
            priority_class="headrace-batch",
            queue="headrace-cpu",
            largest_cpu_cores=15,
            largest_memory_gib=56,
        ),
        ProfileName.GPU_TRAIN: ComputeProfile(
            name=ProfileName.GPU_TRAIN,
            node_selector=_pool(ProfileName.GPU_TRAIN),
            tolerations=(_GPU_TAINT,),
            gpus=1,
            priority_class="headrace-train",
            queue="headrace-gpu-train",
            largest_cpu_cores=15,
            largest_memory_gib=56,
        ),
        ProfileName.GPU_SERVE: ComputeProfile(
            name=ProfileName.GPU_SERVE,
            node_selector=_pool(ProfileName.GPU_SERVE),
            tolerations=(_GPU_TAINT,),
            gpus=1,
            priority_class="headrace-serve",
            queue="headrace-gpu-serve",
            largest_cpu_cores=7,
            largest_memory_gib=28,
        ),
        ProfileName.SPOT_GPU: ComputeProfile(
            name=ProfileName.SPOT_GPU,
            node_selector=_pool(ProfileName.SPOT_GPU),
            tolerations=(_GPU_TAINT, _SPOT_TAINT),
            gpus=1,
            priority_class="headrace-spot",
            queue="headrace-spot-gpu",
            largest_cpu_cores=15,
            largest_memory_gib=56,
            spot=True,
        ),
    }
)

STEERING = "headrace-steer"  # of stages that steer a rollout: users may wait for them

# Who gives way to whom. Spot work never pushes others off a node; serving is pushed off by nobody.
PRIORITIES: Mapping[str, int] = MappingProxyType(
    {
        "headrace-spot": 0,
        "headrace-batch": 1000,
        "headrace-train": 2000,
        STEERING: 2500,
        "headrace-serve": 3000,
    }
)


def priority_class_objects() -> list[dict[str, Json]]:
    """Return the PriorityClass objects that the table names, as the API writes them."""
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "preemptionPolicy": "PreemptLowerPriority" if value else "Never",
        }
        for name, value in PRIORITIES.items()
    ]


@dataclass(frozen=True, kw_only=True)
class StageCompute:
    """What one pod gets: a profile and amounts that the profile's largest node can hold."""

    profile: ComputeProfile
    cpu_cores: float  # asked for
    memory_gib: float  # asked for and allowed: memory over the request is what gets pods evicted
    cpu_limit_cores: float | None = None  # None: as asked for
    priority_class: str | None = None  # None: the profile's, behind the profile's queue

    def __post_init__(self) -> None:
        """Refuse what no node of the pool could ever hold: such a pod would wait for ever."""
        profile, where = self.profile, f"compute profile {self.profile.name}"
        _demand(
            MIN_CPU_CORES <= self.cpu_cores <= profile.largest_cpu_cores,
            where,
            f"{MIN_CPU_CORES:g} to {profile.largest_cpu_cores:g} CPU cores (its largest node)",
            self.cpu_cores,
        )
        _demand(
            MIN_MEMORY_GIB <= self.memory_gib <= profile.largest_memory_gib,
            where,
            f"{MIN_MEMORY_GIB:g} to {profile.largest_memory_gib:g} GiB of memory "
            "(its largest node)",
            self.memory_gib,
        )
        _demand(
            self.cpu_limit_cores is None or self.cpu_limit_cores >= self.cpu_cores,
            where,
            f"a CPU limit of at least the {self.cpu_cores:g} cores asked for",
            self.cpu_limit_cores,
        )
        name = self.priority_class
        valid = name is None or bool(_NAME.fullmatch(name))
        _demand(valid, where, "a DNS label as priority_class", name)

    @property
    def cpu_limit(self) -> float:
        """Return the cores that the pod may use at most."""
        return self.cpu_cores if self.cpu_limit_cores is None else self.cpu_limit_cores


@dataclass(frozen=True, kw_only=True)
class PodFields:
    """The part of a pod that its compute decides, in the API's own names."""

    node_selector: dict[str, str]
    tolerations: list[dict[str, Json]]
    resources: dict[str, dict[str, str]]  # requests and limits of the container `base`
    priority_class: str
    labels: dict[str, str]
    environment: dict[str, str]

    def merged_into(self, pod: Mapping[str, Json], container: str = "base") -> dict[str, Json]:
        """Return the pod object (camelCase) with these fields in it; the argument is not changed.

        The profile decides: selector, resources and priority class of the pod are replaced,
        labels, tolerations and environment are added to.
        """
        metadata, spec = _object(pod, "metadata"), _object(pod, "spec")
        containers = [
            self._container(item) if item.get("name") == container else item
            for item in _objects(spec, "containers")
        ]
        return {
            **pod,
            "metadata": {**metadata, "labels": {**_object(metadata, "labels"), **self.labels}},
            "spec": {
                **spec,
                "nodeSelector": {**self.node_selector},
                "tolerations": [*_objects(spec, "tolerations"), *self.tolerations],
                "priorityClassName": self.priority_class,
                "containers": [*containers],
            },
        }

    def _container(self, container: Mapping[str, Json]) -> dict[str, Json]:
        kept = [
            item for item in _objects(container, "env") if item.get("name") not in self.environment
        ]
        added: list[Json] = [
            {"name": name, "value": value} for name, value in self.environment.items()
        ]
        resources: dict[str, Json] = {kind: {**asked} for kind, asked in self.resources.items()}
        return {**container, "resources": resources, "env": [*kept, *added]}


def pod_fields(compute: StageCompute) -> PodFields:
    """Return what the compute means for a pod."""
    profile = compute.profile
    queue = {QUEUE_LABEL: profile.queue} if compute.priority_class is None else {}
    gpus = {GPU: str(profile.gpus)} if profile.gpus else {}
    memory = memory_quantity(compute.memory_gib)
    return PodFields(
        node_selector=dict(profile.node_selector),
        tolerations=[one.fields for one in profile.tolerations],
        resources={
            "requests": {"cpu": cpu_quantity(compute.cpu_cores), "memory": memory, **gpus},
            "limits": {"cpu": cpu_quantity(compute.cpu_limit), "memory": memory, **gpus},
        },
        priority_class=compute.priority_class or profile.priority_class,
        labels={**queue, PROFILE_LABEL: profile.name.value},
        environment=thread_environment(compute.cpu_limit),
    )


def thread_environment(cpu_limit: float) -> dict[str, str]:
    """Return the thread counts of numeric libraries: they count the node's cores, not the limit."""
    threads = str(max(1, math.floor(cpu_limit)))
    return {
        "OMP_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads starve each other under a CPU limit
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": "1",
    }


def cpu_quantity(cores: float) -> str:
    """Return cores as the API writes them: 0.5 is 500m, 2 is 2."""
    thousandths = round(cores * 1000)
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


def memory_quantity(gib: float) -> str:
    """Return GiB as the API writes them: 0.5 is 512Mi, 8 is 8Gi."""
    mib = round(gib * 1024)
    return f"{mib}Mi" if mib % 1024 else f"{mib // 1024}Gi"


def _object(record: Mapping[str, Json], name: str) -> dict[str, Json]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _objects(record: Mapping[str, Json], name: str) -> list[dict[str, Json]]:
    value = record.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
