"""Beside Envoy: renders routes, measures leases, cuts candidates that harm, sees slots that broke,
lands exposures.

Its death is harmless to users: Envoy keeps the last routes and refuses the candidate past their expiry.
Nobody bounds the access log until it lives again.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tasks.contracts.errors import BadRequestError, HeadraceError, StoreUnavailableError, bounded
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.json_types import pretty_json
from tasks.contracts.log_lines import Level, LineLog, Subject
from tasks.contracts.record_store import RecordStore
from tasks.contracts.state_file import replace_text
from tasks.rollout.comparison import SHADOW_REPORT, ShadowReport
from tasks.rollout.envoy import RouterFiles, reopen_log, router_files
from tasks.rollout.envoy_stats import Statistics, read_statistics
from tasks.rollout.exposure_files import seal_closed
from tasks.rollout.exposures import ExposureLander, rollout_folder, user_key
from tasks.rollout.file_records import FileRecords
from tasks.rollout.harm import READ_SECONDS
from tasks.rollout.harm_watch import HarmWatch
from tasks.rollout.keeper_health import KeeperHealth, lingering
from tasks.rollout.last_routed import is_routed, keep_routed, last_routed, last_withheld
from tasks.rollout.metrics import METRICS_SECONDS, metrics_file, render_metrics
from tasks.rollout.metrics_server import serving_metrics
from tasks.rollout.phases import Phase
from tasks.rollout.readiness import SlotProbes
from tasks.rollout.record import Colour, StateRecord
from tasks.rollout.record_writes import (
    MAX_AT_ONCE,
    RecordWrite,
    RecordWrites,
    Start,
    at_once,
)
from tasks.rollout.routes import (
    Config,
    RoutedModel,
    render_clusters,
    render_routes,
)
from tasks.rollout.shadow_routes import ShadowAddress, read_shadow
from tasks.rollout.slot_addresses import slot_addresses
from tasks.rollout.state import ModelState, Note, open_state
from tasks.rollout.withheld import Withheld, WithheldKind, WithheldShares

TURN_SECONDS = 0.1
SEAL_SECONDS = 5.0
CLUSTER_SECONDS = 0.5  # between new clusters and routes that name them
TAKE_BACK_SECONDS = 10.0
KEEPER = Note(who="keeper")
MAX_WHY = 300


@dataclass(kw_only=True)
class LeaseWatch:
    """When leases run out, by this process's own monotonic clock."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    _deadlines: dict[str, tuple[int, float]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)  # models that this process looked at before

    def lapsed(self, record: StateRecord) -> bool:
        """Return whether the lease of a step has run out since its last renewal was seen."""
        is_first = record.model not in self._seen
        self._seen.add(record.model)
        if record.status.phase is not Phase.STEPPING:
            self._deadlines.pop(record.model, None)
            return False
        known = self._deadlines.get(record.model)
        if known is None or known[0] != record.lease.renewals:
            left = self._left_at_first(record) if is_first else record.lease.seconds
            known = (record.lease.renewals, self.monotonic() + left)
            self._deadlines[record.model] = known
        return self.monotonic() >= known[1]

    def _left_at_first(self, record: StateRecord) -> float:
        """Return the seconds left: a keeper's next life must not give a lease its time anew."""
        return min(record.lease.seconds, max(0.0, record.lease.expires_at - self.wall()))


@dataclass(kw_only=True)
class Keeper:
    """Keeps what Envoy reads equal to what the state records say."""

    state_dir: Path
    records: RecordStore | None = None  # None: files below the state folder
    router_dir: Path | None = None  # what Envoy and the keeper share; None: `<state>/router`
    slot_host: str | None = None  # name of a slot's Service; None: slots.json
    shadow_file: Path | None = None  # of the comparator's address; None: in the router's folder
    take_back_seconds: float = 0.0  # before what another router's keeper said of a slot
    watch: LeaseWatch = field(default_factory=LeaseWatch)
    harm: HarmWatch = field(default_factory=HarmWatch)
    probes: SlotProbes = field(default_factory=SlotProbes)
    statistics: Callable[[RouterFiles], Statistics | None] = read_statistics
    dropped_lines: Callable[[], int] = lambda: 0  # of the access log
    unseen: Callable[[], Sequence[str]] = tuple  # models whose records are not known yet
    say: Callable[[str], None] = print
    cry: Callable[[str], None] = print  # what nobody foresaw, with its traceback
    about: Callable[[str, str | None], None] = lambda _model, _release_id: None
    start_write: Start = at_once  # of a record; beside the turns where that may take long
    start_read: Start = at_once  # of the state folder, likewise: its volume may hang
    _withheld: WithheldShares = field(default_factory=WithheldShares)
    _writes: RecordWrites = field(init=False)
    _models: dict[str, RoutedModel] = field(default_factory=dict)
    _unready: dict[str, set[Colour]] = field(default_factory=dict)  # as last seen
    _said_unready: dict[str, set[Colour]] = field(default_factory=dict)
    _contradicted_at: dict[tuple[str, Colour], float] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)
    _failed_looks: dict[str, int] = field(default_factory=dict)
    _known: Sequence[str] = ()  # the models that had a record at this turn
    _looked: set[str] = field(default_factory=set)  # those that a look of this life was good at
    _restored: set[str] = field(default_factory=set)  # models whose waiting decision was looked for
    _kept: tuple[Sequence[RoutedModel], Mapping[str, Withheld]] | None = None
    _shadows: Sequence[ShadowReport] = ()  # as last read
    _reading: Future[Sequence[ShadowReport]] | None = None
    _read_at: float = -math.inf
    _told_at: float = -math.inf

    def __post_init__(self) -> None:
        self._writes = RecordWrites(start=self.start_write, monotonic=self.watch.monotonic)

    @property
    def files(self) -> RouterFiles:
        """Return the files that Envoy watches."""
        return router_files(self.state_dir, self.router_dir)

    @property
    def _records(self) -> RecordStore:
        return self.records or FileRecords(state_dir=self.state_dir)

    @property
    def unread(self) -> list[str]:
        """Return the models whose routes this keeper does not know, as no look at them was good."""
        return sorted(set(self._known) - self._models.keys() - self._looked)

    def turn(self) -> bool:
        """Look at every model once; return whether Envoy was told something new."""
        self._writes.settle()
        statistics = self._statistics_if_due()
        self._known = self._records.models()
        for model in self._known:
            self.about(model, None)
            self._failed_looks.setdefault(model, 0)
            self._restore_withheld(model)
            try:
                self._look_at(model, statistics)
                self._looked.add(model)
            except Exception as error:  # noqa: BLE001  the model keeps its last routes, others go on
                self._failed(model, error)
                self._carry_over(model)
        self.probes.watch(self._models.values())
        try:
            told = self._tell_envoy()
        finally:
            self._write_withheld()  # after the routes: users must not wait for the API
        if statistics is not None:
            self._tell_prometheus(statistics)
        return told

    def _statistics_if_due(self) -> Statistics | None:
        now = self.watch.monotonic()
        records = [model.record for model in self._models.values()]
        stepping = any(record.status.phase is Phase.STEPPING for record in records)
        if now - self._read_at < (READ_SECONDS if stepping else METRICS_SECONDS):
            return None
        self._read_at = now
        return self.statistics(self.files)

    def _look_at(self, model: str, statistics: Statistics | None) -> None:
        state = open_state(self.state_dir, model, records=self._records)
        record = state.peek()
        release_id = record.release_id
        self.about(model, release_id)
        if release_id is not None and self.watch.lapsed(record):
            self._say_once(f"{model}: lease {record.lease.renewals} of {release_id} has lapsed")
            self._withheld.lapsed(record)
        routable = self._withheld.routed(record)
        # Also beside what is withheld: a look that is on its way writes what is seen by then.
        self._unready[model] = self._seen_unready(record)
        if statistics is not None:
            self._cut_if_harmful(routable, statistics)
            routable = self._withheld.routed(record)
        if routable is record and self._slots_changed(state, record):  # what is withheld goes first
            routable = self._withheld.routed(state.peek())
        slots = slot_addresses(self.state_dir, model, self.slot_host)
        if slots is not None:
            routed = RoutedModel(record=routable, slots=slots)
            if routed != self._models.get(model):
                render_routes([routed])  # what cannot be rendered must not keep others from Envoy
                render_clusters([routed])
            self._models[model] = routed

    def _restore_withheld(self, model: str) -> None:
        """Go on, at the first look at a model, with what this keeper's last life had not written."""
        if model in self._restored:
            return
        self._restored.add(model)
        try:
            withheld = last_withheld(self.files, model)
        except (HeadraceError, OSError) as error:
            self._say_once(str(error))
            return
        if withheld is not None:
            self.say(
                f"keeper: {model}: a {withheld.kind} of this router's last keeper is to be written"
            )
            self._withheld.restored(model, withheld)

    def _carry_over(self, model: str) -> None:
        """Go on with a model's routes of this keeper's last life, until a look at it is good."""
        if model in self._models or model in self._looked:
            return
        try:
            kept = last_routed(self.files, model)
        except (HeadraceError, OSError) as error:
            self._say_once(str(error))
            return
        if kept is not None:
            self._models[model] = kept

    def _failed(self, model: str, error: Exception) -> None:
        self._failed_looks[model] += 1
        if isinstance(error, HeadraceError | OSError):
            self._say_once(f"{model}: {error}")
            return
        *_, last = traceback.extract_tb(error.__traceback__)
        place = f"{model}: {type(error).__name__} at {last.filename}:{last.lineno}"
        if place not in self._said:  # the message may differ at each turn
            self._said.add(place)
            self.cry("".join([f"keeper: {model}: ", *traceback.format_exception(error)]).rstrip())

    def _cut_if_harmful(self, record: StateRecord, statistics: Statistics) -> None:
        try:
            harm = self.harm.harm(record, statistics, self.watch.wall())
        except Exception as error:  # noqa: BLE001  nobody meets a candidate that nobody judges
            self._failed(record.model, error)
            self._pause_unjudged(record, error)
            return
        if harm is None or record.release_id is None or record.status.step is None:
            return
        self._say_once(f"{record.model}: {record.release_id} was cut to 0 %: {harm}")
        self._withheld.cut(record, str(harm), harm.numbers())

    def _pause_unjudged(self, record: StateRecord, error: Exception) -> None:
        if record.release_id is None or record.status.phase is not Phase.STEPPING:
            return
        why = f"it cannot be judged: {type(error).__name__}: {error}; see the keeper's log"
        self._withheld.paused(record, bounded(why, MAX_WHY))

    def _seen_unready(self, record: StateRecord) -> set[Colour]:
        # A keeper that just started knows of no answer: what was broken is so until it answers.
        broken = set(record.unready) - self._taken_back(record)
        return (broken | self.probes.unready(record.model)) & record.slots.keys()

    def _slots_changed(self, state: ModelState, record: StateRecord) -> bool:
        unready = self._unready[record.model]
        if unready == set(record.unready):
            return False
        if self._said_unready.get(record.model) != unready:
            answer = f"slots that do not answer: {sorted(unready) or 'none'}"
            self.say(f"keeper: {record.model}: {answer}")
        self._said_unready[record.model] = unready
        self._writes.offer(
            RecordWrite(
                model=record.model,
                write=lambda: state.look(lambda: self._unready[record.model], note=KEEPER),
                done=lambda phase: self._say_phase(record, phase),
                failed=self._unwritten(record.model, "the record lacks yet which slots answer"),
            )
        )
        return True

    def _say_phase(self, before: StateRecord, phase: Phase) -> None:
        if phase is not before.status.phase:
            self.say(f"keeper: {before.model}: {before.release_id} is now {phase}")

    def _write_withheld(self) -> None:
        for model, withheld in self._withheld.waiting().items():
            self._writes.offer(
                RecordWrite(
                    model=model,
                    write=partial(self._write, model, withheld),
                    done=partial(self._withheld.written, model, withheld),
                    failed=self._unwritten(
                        model, "users meet stable only; what the record lacks yet"
                    ),
                )
            )

    def _write(self, model: str, withheld: Withheld) -> Phase:
        state = open_state(self.state_dir, model, records=self._records)
        release_id, note = withheld.release_id, replace(KEEPER, why=withheld.why)
        match withheld.kind:
            case WithheldKind.LAPSE:
                return state.lapse(release_id, withheld.renewals, note=note)
            case WithheldKind.CUT:
                return state.cut(release_id, withheld.step, numbers=withheld.numbers, note=note)
            case WithheldKind.PAUSE:
                return state.pause(release_id, note=note)

    def _unwritten(self, model: str, what: str) -> Callable[[Exception, bool], None]:
        """Return who hears that a write failed; it is tried again."""

        def failed(error: Exception, is_new: bool) -> None:
            self.about(model, None)
            if not isinstance(error, StoreUnavailableError | OSError):
                self._failed(model, error)
            elif is_new:
                self.say(f"keeper: {model}: {what}: {error}")

        return failed

    def _taken_back(self, record: StateRecord) -> set[Colour]:
        """Return the slots that answer us, though the record says that they do not.

        Another router may not reach them: what its keeper said is left to stand for a while, or
        two that see a slot differently would move users to and fro.
        """
        now, taken = self.watch.monotonic(), set()
        ours = self._said_unready.get(record.model, set())
        for colour in self.probes.ready(record.model).intersection(record.unready):
            since = self._contradicted_at.setdefault((record.model, colour), now)
            if colour in ours or now - since >= self.take_back_seconds:
                taken.add(colour)
        for model, colour in list(self._contradicted_at):
            if model == record.model and colour not in record.unready:
                del self._contradicted_at[model, colour]
        return taken

    def _tell_envoy(self) -> bool:
        if unseen := list(self.unseen()):  # a keeper's next life: the last one's routes go on
            self._say_once(f"Envoy keeps its routes until the records of {unseen} are seen")
            return False
        if routed := [name for name in self.unread if is_routed(self.files, name)]:
            self._say_once(f"Envoy keeps its routes until the records of {routed} can be read")
            return False
        models = [self._models[name] for name in sorted(self._models)]
        kept = (models, self._withheld.waiting())
        if kept != self._kept:  # before Envoy is told: a next life must know no older routes
            keep_routed(self.files, *kept)
            self._kept = kept
        shadow = self._shadow()
        new_clusters = _replace_if_new(self.files.clusters, render_clusters(models, shadow))
        if new_clusters:
            time.sleep(CLUSTER_SECONDS)
        return _replace_if_new(self.files.routes, render_routes(models, shadow)) or new_clusters

    def _shadow(self) -> ShadowAddress | None:
        try:
            return read_shadow(self.shadow_file or self.files.shadow)
        except (HeadraceError, OSError) as error:  # nothing is mirrored, and users are served
            self._say_once(str(error))
            return None

    def _tell_prometheus(self, statistics: Statistics) -> None:
        if self._read_at - self._told_at < METRICS_SECONDS:
            return
        self._told_at = self._read_at
        records = [self._models[name].record for name in sorted(self._models)]
        shadows = self._shadow_reports(records)
        failed = self._failed_looks
        dropped, now = self.dropped_lines(), self.watch.wall()
        text = render_metrics(statistics, records, now, shadows, failed, dropped_lines=dropped)
        replace_text(metrics_file(self.files), text, durable=False)

    def _shadow_reports(self, records: Sequence[StateRecord]) -> Sequence[ShadowReport]:
        """Return what was read last, and have it read anew."""
        if self._reading is None:
            self._reading = self.start_read(partial(self._read_shadow_reports, records))
        if self._reading.done():
            read, self._reading = self._reading, None
            self._shadows = read.result()
        return self._shadows

    def _read_shadow_reports(self, records: Iterable[StateRecord]) -> Sequence[ShadowReport]:
        return [report for record in records for report in self._shadow_report(record)]

    def _shadow_report(self, record: StateRecord) -> list[ShadowReport]:
        if record.rollout is None:
            return []
        path = rollout_folder(self.state_dir, record.model, record.rollout) / SHADOW_REPORT
        try:
            return [ShadowReport.parse(_shadow_text(path), str(path))]
        except FileNotFoundError:
            return []
        except HeadraceError as error:
            self._say_once(str(error))
            return []

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self.say(f"keeper: {sentence}")


def _shadow_text(path: Path) -> bytes:
    return path.read_bytes()


def _replace_if_new(path: Path, config: Config) -> bool:
    text = pretty_json(config)
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except FileNotFoundError:
        pass
    replace_text(path, text, durable=False)
    return True


@dataclass(frozen=True, kw_only=True)
class RouterPlace:
    """Where one router's keeper finds what it keeps; by default all of it lies in the state folder."""

    state_dir: Path
    records: RecordStore | None = None
    router_dir: Path | None = None
    slot_host: str | None = None
    shadow_file: Path | None = None
    name: str = ""  # of this router among several, which land exposures side by side

    @property
    def files(self) -> RouterFiles:
        """Return the files that Envoy watches."""
        return router_files(self.state_dir, self.router_dir)


def run(
    place: RouterPlace | Path,
    stop: threading.Event,
    turn_seconds: float = TURN_SECONDS,
    log: LineLog | None = None,
    statistics: Callable[[RouterFiles], Statistics | None] = read_statistics,
    *,
    health: KeeperHealth | None = None,
) -> None:
    """Turn until told to stop; a failed turn is said and tried again."""
    place = RouterPlace(state_dir=place) if isinstance(place, Path) else place
    log = log or LineLog(subject=Subject(process="keeper"))
    health = health or KeeperHealth()
    lander = ExposureLander(
        state_dir=place.state_dir,
        key=user_key(place.state_dir),
        reopen=lambda: reopen_log(place.files),
        router=place.files,
        name=place.name,
        warn=lambda sentence: log.say(Level.WARNING, sentence),
    )
    writers = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="record")
    reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
    keeper = Keeper(
        state_dir=place.state_dir,
        records=place.records,
        router_dir=place.router_dir,
        slot_host=place.slot_host,
        shadow_file=place.shadow_file,
        take_back_seconds=TAKE_BACK_SECONDS if place.name else 0.0,
        say=log.info,
        cry=lambda sentence: log.say(Level.ERROR, sentence),
        about=log.about_release,
        statistics=lambda files: _with_failed_rpcs(statistics(files), lander),
        dropped_lines=lambda: lander.dropped_lines,
        unseen=health.unseen,
        start_write=writers.submit,
        start_read=reader.submit,
    )
    # The state folder's volume may hang: nothing that cuts, or bounds the log, may wait for it.
    beside = [
        threading.Thread(
            target=_turn_until, args=(stop, seconds, [act], log), name=name, daemon=True
        )
        for name, seconds, act in (
            ("sealer", SEAL_SECONDS, partial(seal_closed, place.state_dir)),
            ("lander", turn_seconds, lander.land),
        )
    ]
    for thread in beside:
        thread.start()
    turns = [keeper.turn, lander.bound_logs, lambda: health.turned(keeper.unread)]
    _turn_until(stop, turn_seconds, turns, log)
    keeper.probes.close()
    for pool in (writers, reader):
        pool.shutdown(wait=False, cancel_futures=True)
    for thread in beside:
        thread.join(timeout=5)


def _turn_until(
    stop: threading.Event, turn_seconds: float, acts: Sequence[Callable[[], object]], log: LineLog
) -> None:
    last_said = ""
    while not stop.wait(turn_seconds):
        for act in acts:
            try:
                act()
            except Exception as error:  # noqa: BLE001  no trouble may end the watch over leases
                sentence = f"keeper: {type(error).__name__}: {error}"
                if sentence != last_said:
                    with suppress(OSError):  # its disk may be full as well
                        log.say(Level.ERROR, sentence)
                last_said = sentence


def _with_failed_rpcs(seen: Statistics | None, lander: ExposureLander) -> Statistics | None:
    return None if seen is None else seen.with_failed_rpcs(lander.failed_rpcs)


def stop_on_signals(signals: Iterable[signal.Signals]) -> threading.Event:
    """Return an event that the first of these signals sets."""
    stop = threading.Event()
    for number in signals:
        signal.signal(number, lambda *_: stop.set())
    return stop


def demand_folders(*folders: Path) -> None:
    """Make folders that a keeper writes into; BadRequestError: one can be neither made nor written."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = None if os.access(folder, os.W_OK | os.X_OK) else "one that it may not write"
        except OSError as error:
            found = f"{error.filename}: {error.strerror}"
        if found is not None:
            message = (
                f"keeper: expected the folder {folder} to be there for user {os.getuid()} to write, "
                f"or to be made, found {found}; mount the volume there and let that user own it"
            )
            raise BadRequestError(message)


def parser_of_keeper() -> argparse.ArgumentParser:
    """Return the parser of `headrace keeper`."""
    parser = argparse.ArgumentParser(prog="headrace keeper", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True, help="folder of state records")
    parser.add_argument(
        "--router-dir", type=Path, help="folder shared with Envoy alone (default: STATE/router)"
    )
    parser.add_argument(
        "--shadow",
        type=Path,
        metavar="FILE",
        help="where the comparator listens (default: shadow.json in the router's folder)",
    )
    parser.add_argument("--metrics-port", type=int, help="serve /metrics there (default: nowhere)")
    parser.add_argument(
        "--metrics-host", default="127.0.0.1", help="address to bind (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--linger-seconds",
        type=float,
        default=0.0,
        help="after SIGTERM, stay so long while Envoy still answers (default: 0)",
    )
    return parser


def main(
    argv: Sequence[str] | None = None,
    *,
    records: RecordStore | None = None,
    slot_host: str | None = None,
    name: str = "",
    unseen: Callable[[], Sequence[str]] = tuple,
) -> int:
    """Keep routes until SIGTERM."""
    options = parser_of_keeper().parse_args(sys.argv[1:] if argv is None else argv)
    log = LineLog.from_environment(Subject(process="keeper"))
    log.note(Level.INFO, f"keeper: watches {options.state_dir}")
    place = RouterPlace(
        state_dir=options.state_dir,
        records=records,
        router_dir=options.router_dir,
        slot_host=slot_host,
        shadow_file=options.shadow,
        name=name,
    )
    demand_folders(options.state_dir, place.files.folder)
    asked = stop_on_signals((signal.SIGTERM, signal.SIGINT))
    stop = lingering(asked, place.files, options.linger_seconds)
    health = KeeperHealth(files=place.files, unseen=unseen)
    path = metrics_file(place.files)
    with serving_metrics(path, options.metrics_host, options.metrics_port, health.trouble):
        run(place, stop, log=log, health=health)
    log.note(Level.INFO, "keeper: stopped")
    return int(ExitCode.DONE)


if __name__ == "__main__":
    raise SystemExit(main())
