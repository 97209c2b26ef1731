"""What a task asks of a stage and how its end is read: shared by both runtimes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from headrace_airflow.sealed_store import NotSealedError, SealedStore
from tasks.contracts.artifacts import parse_termination
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.json_types import Json
from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import Stage

if TYPE_CHECKING:
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

    from tasks.contracts.requests import ReleaseRequest

REFUSAL_KEY = "refusal"  # XCom: the sentence of a refused gate or request
TaskIds = tuple[str, ...]  # of several, the last one that made something counts


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a rule may look at before a stage runs."""

    request: StageRequest
    store: SealedStore
    context: Mapping[str, Any]


SkipRule = Callable[[Situation], str | None]
ReadsRule = Callable[["ReleaseRequest"], Mapping[str, str]]
SettingsRule = Callable[[Mapping[str, Any]], Mapping[str, Json]]
RunReadsRule = Callable[[Mapping[str, Any]], Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class StageCall:
    """One stage in a DAG: whose artifacts it reads, which gates passed them, when to skip it."""

    stage: Stage
    release: str | None = None  # id of the task that sealed the release request
    reads: Mapping[str, TaskIds] = field(default_factory=dict)
    gates: Mapping[str, TaskIds] = field(default_factory=dict)
    settings: Mapping[str, Json] = field(default_factory=dict)
    settings_from: SettingsRule | None = None  # settings that only the run knows
    reads_from: ReadsRule | None = None  # inputs that the release request pins
    reads_from_run: RunReadsRule | None = None  # inputs that only the run names
    skip_when: SkipRule | None = None  # returns why, or None to run

    fails_nothing: bool = False  # the last try ends as skipped, not as failed

    def request(self, context: Mapping[str, Any], store_url: str) -> StageRequest:
        """Gather the addresses that earlier tasks of this run pushed."""
        wanted = [ids for names in (self.reads, self.gates) for ids in names.values()]
        task_ids = {one for ids in wanted for one in ids}
        made = _addresses(context["ti"], task_ids | ({self.release} if self.release else set()))
        release = made.get(self.release) if self.release else None
        more = {} if self.settings_from is None else self.settings_from(context)
        named = {} if self.reads_from_run is None else dict(self.reads_from_run(context))
        return StageRequest(
            stage=self.stage,
            store_url=store_url,
            release=release,
            reads=_last_made(self.reads, made) | self._pinned(release, store_url) | named,
            gates=_last_made(self.gates, made),
            settings={**self.settings, **more},
        )

    def _pinned(self, release: str | None, store_url: str) -> dict[str, str]:
        if self.reads_from is None or release is None:
            return {}
        return dict(self.reads_from(SealedStore(url=store_url).release_request(release)))

    def skip_if_told(self, request: StageRequest, context: Mapping[str, Any]) -> None:
        """Skip the task when its rule gives a reason."""
        if self.skip_when is None:
            return
        store = SealedStore(url=request.store_url)
        reason = self.skip_when(Situation(request=request, store=store, context=context))
        if reason is not None:
            raise AirflowSkipException(reason)


def last_word(call: StageCall, error: BaseException, ti: Any, retries: int) -> BaseException:
    """Return what a failed try raises; a teardown task would do, but marks failed runs green."""
    final = isinstance(error, AirflowFailException) or int(ti.try_number) > retries
    if call.fails_nothing and final:
        return AirflowSkipException(f"{call.stage.value} failed, and fails nothing: {error}")
    return error


def _addresses(ti: RuntimeTaskInstanceProtocol, task_ids: set[str]) -> dict[str, str]:
    found = {one: ti.xcom_pull(task_ids=one) for one in sorted(task_ids)}
    return {one: str(address) for one, address in found.items() if address}


def _last_made(names: Mapping[str, TaskIds], made: Mapping[str, str]) -> dict[str, str]:
    last = {name: [made[one] for one in ids if one in made] for name, ids in names.items()}
    return {name: addresses[-1] for name, addresses in last.items() if addresses}


@dataclass(frozen=True, kw_only=True)
class StageEnd:
    """How the process of a stage ended: exit code and last sentence."""

    exit_code: int  # negative: ended by that signal
    sentence: str

    @property
    def for_people(self) -> str:
        """Return the sentence without the evidence in front of it."""
        if parse_termination(self.sentence) is None:
            return self.sentence
        return self.sentence.partition(" | ")[2]


def conclude(stage: Stage, end: StageEnd, store: SealedStore, ti: Any) -> str:
    """Return the sealed artifact's address; anything else fails the task, retried or for good."""
    evidence = parse_termination(end.sentence)
    if end.exit_code in {ExitCode.GATE_REFUSED, ExitCode.BAD_REQUEST}:
        if evidence is not None:  # a refusing gate has sealed its report
            ti.xcom_push(key="return_value", value=str(evidence.address))
        ti.xcom_push(key=REFUSAL_KEY, value=end.for_people)
        raise AirflowFailException(end.for_people or f"{stage.value} refused and said nothing")
    if end.exit_code != ExitCode.DONE:
        raise AirflowException(_crash_sentence(stage, end))
    try:
        manifest = store.check(evidence, stage)
    except NotSealedError as error:
        message = f"{stage.value} ended with exit code 0, but is not green: {error}"
        raise AirflowException(message) from error
    return str(manifest.address)


def _crash_sentence(stage: Stage, end: StageEnd) -> str:
    said = end.sentence or "it left no last sentence; see the log above"
    if end.exit_code < 0:
        return f"{stage.value} was ended by signal {-end.exit_code}: {said}"
    return f"{stage.value} crashed with exit code {end.exit_code}: {said}"
