"""Which compute a stage gets: the code's tables, a deployment's file over them, a trigger's wish.

A deployment may redefine the named pools and every stage's place and amounts. A trigger may only
choose among the pools that a stage may use, with amounts that the pool's largest node can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from headrace_airflow.compute_profiles import (
    COMPUTE_PROFILES,
    MIN_CPU_CORES,
    MIN_MEMORY_GIB,
    ComputeProfile,
    ProfileName,
    StageCompute,
    Toleration,
)
from headrace_airflow.pod_profiles import POD_PROFILES, PodProfile, demand_ranks
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, check_format, parse_object
from tasks.contracts.stages import Stage

FORMAT = "compute_profiles"
NEWEST_FORMAT = 1
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class ComputeTable:
    """The pools and the stages' places of one deployment; refused where one cannot hold the other."""

    profiles: Mapping[ProfileName, ComputeProfile]
    stages: Mapping[Stage, PodProfile]

    def __post_init__(self) -> None:
        """Refuse a table in which a stage does not fit into its pool, or has ranks that it cannot use."""
        for stage in Stage:
            self.compute_for(stage)
            demand_ranks(stage, self.stages[stage].ranks)

    def compute_for(self, stage: Stage, asked: Mapping[str, Json] | None = None) -> StageCompute:
        """Return what the stage's pod gets; `asked` is what the trigger says of this stage."""
        place = self.stages[stage]
        try:
            if asked is not None:
                place = _trigger_place(place, asked)
            return place.compute(self.profiles)
        except BadRequestError as error:
            message = f"compute of {stage.value}: {error}"
            raise BadRequestError(message) from error


DEFAULT_COMPUTE = ComputeTable(profiles=dict(COMPUTE_PROFILES), stages=dict(POD_PROFILES))


def read_compute(
    text: str | bytes, where: str, base: ComputeTable = DEFAULT_COMPUTE
) -> ComputeTable:
    """Read a deployment's compute_profiles/1: only what it names differs from `base`."""
    record = parse_object(text, where)
    check_format(record, FORMAT, NEWEST_FORMAT, where)
    _refuse_unknown(record, ("format", "profiles", "stages"), where)
    profiles = {
        _named(ProfileName, name, f"{where}: profiles"): fields
        for name, fields in _object(record, "profiles", where).items()
    }
    stages = {
        _named(Stage, name, f"{where}: stages"): fields
        for name, fields in _object(record, "stages", where).items()
    }
    changed = {
        name: _changed(base.profiles[name], fields, _PROFILE_FIELDS, f"{where}: {name.value}")
        for name, fields in profiles.items()
    }
    placed = {
        stage: _changed(base.stages[stage], fields, _PLACE_FIELDS, f"{where}: {stage.value}")
        for stage, fields in stages.items()
    }
    return ComputeTable(profiles={**base.profiles, **changed}, stages={**base.stages, **placed})


def asked_of(params: Mapping[str, Any], stage: Stage) -> Mapping[str, Json] | None:
    """Return what a run's form asks for this stage's compute, or None for the deployment's own."""
    compute = params.get("compute")
    if compute is None:
        return None
    asked = compute.get(stage.value) if isinstance(compute, Mapping) else compute
    if asked is not None and not isinstance(asked, Mapping):
        message = (
            f"compute of {stage.value}: expected an object such as "
            f'{{"profile": "gpu-train", "cpu_cores": 4}}, found {asked!r:.200}'
        )
        raise BadRequestError(message)
    return asked


def compute_schema(table: ComputeTable) -> dict[str, Any]:
    """Return the JSON schema of the form's field `compute`: stages that have a choice, no others.

    It bounds amounts by the largest pool; `compute_for` then holds them against the chosen one.
    """
    return {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {stage.value: _stage_schema(table, stage) for stage in Stage},
    }


def _stage_schema(table: ComputeTable, stage: Stage) -> dict[str, Any]:
    usable = [table.profiles[name] for name in table.stages[stage].may_use]
    most_cores = max(one.largest_cpu_cores for one in usable)
    most_gib = max(one.largest_memory_gib for one in usable)
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "profile": {"type": "string", "enum": [one.name.value for one in usable]},
            "cpu_cores": {"type": "number", "minimum": MIN_CPU_CORES, "maximum": most_cores},
            "memory_gib": {"type": "number", "minimum": MIN_MEMORY_GIB, "maximum": most_gib},
        },
    }


def _trigger_place(place: PodProfile, asked: Mapping[str, Json]) -> PodProfile:
    allowed = {name: _PLACE_FIELDS[name] for name in ("profile", "cpu_cores", "memory_gib")}
    return _changed(place, dict(asked), allowed, "trigger")


def _changed(
    before: _T, fields: Json, readers: Mapping[str, Callable[[Json, str], Any]], where: str
) -> _T:
    if not isinstance(fields, dict):
        message = f"{where}: expected an object, found {fields!r:.200}"
        raise BadRequestError(message)
    _refuse_unknown(fields, tuple(readers), where)
    read = {name: readers[name](value, f"{where}: {name}") for name, value in fields.items()}
    changed: _T = replace(before, **read)  # type: ignore[type-var]  # both are dataclasses
    return changed


def _refuse_unknown(record: Mapping[str, Json], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(record) - set(known))
    if unknown:
        message = f"{where}: expected fields {sorted(known)}, found {unknown} too"
        raise BadRequestError(message)


def _object(record: Mapping[str, Json], name: str, where: str) -> dict[str, Json]:
    value = record.get(name, {})
    if not isinstance(value, dict):
        message = f"{where}: {name}: expected an object, found {value!r:.200}"
        raise BadRequestError(message)
    return value


_E = TypeVar("_E", ProfileName, Stage)


def _named(kind: type[_E], name: Json, where: str) -> _E:
    known = [item.value for item in kind]
    if name not in known:
        message = f"{where}: expected one of {known}, found {name!r:.200}"
        raise BadRequestError(message)
    return kind(str(name))


def _number(value: Json, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = f"{where}: expected a number, found {value!r:.200}"
        raise BadRequestError(message)
    return value


def _count(value: Json, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"{where}: expected a whole number, found {value!r:.200}"
        raise BadRequestError(message)
    return value


def _flag(value: Json, where: str) -> bool:
    if not isinstance(value, bool):
        message = f"{where}: expected true or false, found {value!r:.200}"
        raise BadRequestError(message)
    return value


def _text(value: Json, where: str) -> str:
    if not isinstance(value, str):
        message = f"{where}: expected text, found {value!r:.200}"
        raise BadRequestError(message)
    return value


def _selector(value: Json, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        message = f"{where}: expected labels as an object, found {value!r:.200}"
        raise BadRequestError(message)
    return tuple((key, _text(item, f"{where}: {key}")) for key, item in value.items())


def _tolerations(value: Json, where: str) -> tuple[Toleration, ...]:
    if not isinstance(value, list):
        message = f"{where}: expected a list of tolerations, found {value!r:.200}"
        raise BadRequestError(message)
    return tuple(
        _changed(Toleration(key="x"), {"key": "", **_as_object(item, where)}, _TOLERATION, where)
        for item in value
    )


def _as_object(value: Json, where: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        message = f"{where}: expected an object with key, value and effect, found {value!r:.200}"
        raise BadRequestError(message)
    return value


def _profile(value: Json, where: str) -> ProfileName:
    return _named(ProfileName, value, where)


_TOLERATION: Mapping[str, Callable[[Json, str], Any]] = {
    "key": _text,
    "value": _text,
    "effect": _text,
}
_PROFILE_FIELDS: Mapping[str, Callable[[Json, str], Any]] = {
    "node_selector": _selector,
    "tolerations": _tolerations,
    "gpus": _count,
    "priority_class": _text,
    "queue": _text,
    "largest_cpu_cores": _number,
    "largest_memory_gib": _number,
    "scales_from_zero": _flag,
}
_PLACE_FIELDS: Mapping[str, Callable[[Json, str], Any]] = {
    "profile": _profile,
    "cpu_cores": _number,
    "memory_gib": _number,
    "ranks": _count,
    "priority_class": _text,
}
