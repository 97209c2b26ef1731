"""Shoppers: users of the set's last period ask the router, and choose what they really chose."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import httpx

from tasks.contracts.bake import used_up_path
from tasks.contracts.errors import HeadraceError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.json_types import pretty_json
from tasks.contracts.log_lines import Level, LineLog, Subject
from tasks.contracts.record_store import RecordStore
from tasks.contracts.state_file import replace_text
from tasks.models.npz_files import FORMAT, arrays_of
from tasks.rollout.exposure_files import read_exposures
from tasks.rollout.exposures import (
    append_outcomes,
    hashed_user,
    read_lines,
    rollout_folder,
    user_key,
)
from tasks.rollout.phases import Phase
from tasks.rollout.picture_requests import PictureReplay
from tasks.rollout.record import StateRecord
from tasks.rollout.replay_requests import ReplayRequests, TypedReplayRequests
from tasks.rollout.state import models_with_state, open_state
from tasks.rollout.step_requests import StepRequests

REQUESTS_FILE = "requests.npz"
CHUNK = 64  # requests between two looks at the state
TURN_SECONDS = 0.2
LANDING_SECONDS = 10.0  # exposures that a stopped Envoy lost are not waited for longer
REQUEST_TIMEOUT_SECONDS = 35.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the router answered to one replayed request."""

    request: int
    variant: str
    hit: bool
    failed: bool
    ms: float


def load_requests(path: Path) -> StepRequests:
    """Return the requests of a rollout, of shoppers or of pictures."""
    kinds = {one.FORMAT: one for one in (ReplayRequests, TypedReplayRequests, PictureReplay)}
    with arrays_of(path, *kinds) as arrays:
        kind: type[StepRequests] = kinds[str(arrays[FORMAT])]
    return kind.load(path)


@dataclass(kw_only=True)
class RolloutReplay:
    """The replay of one rollout: what was asked already, and in which step."""

    record: StateRecord
    folder: Path
    requests: StepRequests
    done: set[int] = field(default_factory=set)
    variants: Counter[str] = field(default_factory=Counter)
    users: dict[str, set[str]] = field(default_factory=dict)
    failed: int = 0
    used_up_at: float | None = None

    @classmethod
    def open(cls, record: StateRecord, folder: Path) -> RolloutReplay:
        """Load the requests and what an earlier process asked of them."""
        replay = cls(record=record, folder=folder, requests=load_requests(folder / REQUESTS_FILE))
        for line in read_lines(folder / "outcomes.jsonl"):
            request = int(str(line["request_id"]).rsplit("-", 1)[-1])
            replay.done.add(request)
            if request in replay.requests.of_step(replay.step):
                replay.count(line["variant"], line["user"], failed=line["failed"])
        return replay

    @property
    def step(self) -> int:
        """Return the step in progress."""
        return self.record.status.step or 1

    @property
    def mark(self) -> str:
        """Return what the router's answers carry once it serves this step."""
        return f"{self.record.rollout}:{self.step}"

    def request_id(self, request: int) -> str:
        """Return the id by which exposure and outcome are joined."""
        return f"{self.record.model}-{self.record.rollout}-{request:08d}"

    def open_requests(self) -> Iterable[int]:
        """Return what this step has not asked yet, in order of time."""
        return (index for index in self.requests.of_step(self.step) if index not in self.done)

    def count(self, variant: str, user: str, *, failed: bool) -> None:
        """Count one asked request of the step in progress."""
        self.variants[variant] += 1
        self.users.setdefault(variant, set()).add(user)
        self.failed += failed

    def progress_text(self, *, exhausted: bool) -> str:
        """Return `progress.json` as text."""
        return pretty_json(
            {
                "format": "traffic_progress/1",
                "model": self.record.model,
                "release_id": self.record.release_id,
                "rollout": self.record.rollout,
                "step": self.step,
                "planned": len(self.requests.of_step(self.step)),
                "sent": sum(self.variants.values()),
                "failed": self.failed,
                "exhausted": exhausted,
                "requests": dict(self.variants),
                "users": {variant: len(users) for variant, users in self.users.items()},
            }
        )


@dataclass(kw_only=True)
class Shoppers:
    """All replays of a deployment; one turn asks a chunk for each model in a step.

    `records` is where the state records lie: without it, files below `state_dir`.
    """

    state_dir: Path
    router_url: str
    pool: ThreadPoolExecutor
    client: httpx.Client
    records: RecordStore | None = None
    say: Callable[[str], None] = print
    about: Callable[[str, str | None], None] = lambda _model, _release_id: None
    clock: Callable[[], float] = time.time
    _key: bytes = b""
    _replays: dict[str, RolloutReplay] = field(default_factory=dict)
    _wrong: dict[str, str] = field(default_factory=dict)

    def turn(self) -> int:
        """Ask one chunk per model; return how many requests were asked."""
        models = (
            models_with_state(self.state_dir) if self.records is None else self.records.models()
        )
        return sum(self._careful_turn_of(model) for model in models)

    def _careful_turn_of(self, model: str) -> int:
        """Turn for one model; what is wrong with it is said and holds up no other model."""
        try:
            return self._turn_of(model)
        except (HeadraceError, OSError) as error:  # the next turn reads everything again
            if self._wrong.get(model) != str(error):
                self.about(model, None)
                self.say(f"shoppers: {model}: {error}")
            self._wrong[model] = str(error)
            return 0

    def _turn_of(self, model: str) -> int:
        record = open_state(self.state_dir, model, records=self.records).peek()
        self.about(model, record.release_id)
        replay = self._replay_of(record)
        if replay is None:
            return 0
        chunk = list(islice(replay.open_requests(), CHUNK))
        if not chunk:
            self._finish(replay)
            return 0
        if not self._router_serves(replay):
            return 0
        answers = self.pool.map(lambda request: self._ask(replay, request), chunk)
        kept = [answer for answer in answers if answer is not None]
        self._keep(replay, kept)
        return len(kept)

    def _replay_of(self, record: StateRecord) -> RolloutReplay | None:
        """Return the replay of a step in progress; None where nothing is replayed now."""
        if record.status.phase is not Phase.STEPPING or record.rollout is None:
            return None
        known = self._replays.get(record.model)
        if known is not None and known.mark == f"{record.rollout}:{record.status.step}":
            return known
        folder = rollout_folder(self.state_dir, record.model, record.rollout)
        if not (folder / REQUESTS_FILE).exists():
            return None
        replay = RolloutReplay.open(record, folder)
        self._replays[record.model] = replay
        planned = len(replay.requests.of_step(replay.step))
        self.say(f"shoppers: {record.model}: {planned} requests in step {replay.step}")
        return replay

    def _router_serves(self, replay: RolloutReplay) -> bool:
        """Ask without a user, which is no exposure, whether stable answers by this step's routes."""
        path = f"{self.router_url}/v1/models/{replay.record.model}"
        try:
            answer = self.client.get(path, headers={"x-model": replay.record.model})
        except httpx.TransportError:
            return False
        found: str | None = answer.headers.get("x-headrace-step")
        return answer.is_success and found == replay.mark

    def _ask(self, replay: RolloutReplay, request: int) -> Answer | None:
        """Ask for one user; None where no answer belongs to this step, so it is asked again."""
        model = replay.record.model
        headers = {
            "x-model": model,
            "x-user-id": replay.requests.user_of(request),
            "x-request-id": replay.request_id(request),
            "content-type": "application/json",
        }
        url = f"{self.router_url}/v1/models/{model}:predict"
        started = time.monotonic()
        try:
            answer = self.client.post(
                url, content=replay.requests.body_of(request), headers=headers
            )
        except httpx.TransportError:
            return None
        if answer.headers.get("x-headrace-step") != replay.mark:
            return None
        hit, failed = False, answer.status_code != httpx.codes.OK
        if not failed:
            try:
                hit = replay.requests.is_hit(request, answer.json())
            except (ValueError, LookupError, TypeError):  # 200 with nothing that a shop can show
                failed = True
        return Answer(
            request=request,
            variant=answer.headers["x-headrace-variant"],
            hit=hit,
            failed=failed,
            ms=(time.monotonic() - started) * 1000,
        )

    def _keep(self, replay: RolloutReplay, answers: Sequence[Answer]) -> None:
        if not self._key:
            self._key = user_key(self.state_dir)
        lines = []
        for answer in answers:
            user = hashed_user(self._key, replay.requests.user_of(answer.request))
            replay.done.add(answer.request)
            replay.count(answer.variant, user, failed=answer.failed)
            lines.append(
                {
                    "time": round(self.clock(), 3),
                    "request_id": replay.request_id(answer.request),
                    "user": user,
                    "variant": answer.variant,
                    "hit": int(answer.hit),
                    "failed": answer.failed,
                    "ms": round(answer.ms, 3),
                }
            )
        append_outcomes(replay.folder, lines)
        self._write_progress(replay, exhausted=False)

    def _finish(self, replay: RolloutReplay) -> None:
        """Say that the step's requests are used up, once their exposures have landed."""
        release_id = replay.record.release_id
        if release_id is None:
            return
        mark = used_up_path(self.state_dir, replay.record.model, release_id, replay.step)
        if mark.exists():
            return
        if replay.used_up_at is None:
            replay.used_up_at = self.clock()
        landed = {
            line["request_id"]
            for line in read_exposures(replay.folder, replay.record.step_began_at)
            if line["step"] == replay.step
        }
        waited = self.clock() - replay.used_up_at
        if len(landed) < sum(replay.variants.values()) and waited < LANDING_SECONDS:
            return
        self._write_progress(replay, exhausted=True)
        replace_text(mark, f"{len(landed)} exposures landed\n", durable=False)
        self.say(f"shoppers: {replay.record.model}: step {replay.step} is used up")

    def _write_progress(self, replay: RolloutReplay, *, exhausted: bool) -> None:
        text = replay.progress_text(exhausted=exhausted)
        replace_text(replay.folder.parent / "progress.json", text, durable=False)


def run(
    state_dir: Path,
    router_url: str,
    stop: threading.Event,
    workers: int,
    *,
    log: LineLog | None = None,
    records: RecordStore | None = None,
) -> None:
    """Replay whatever step is in progress until told to stop."""
    log = log or LineLog(subject=Subject(process="shoppers"))
    limits = httpx.Limits(max_connections=workers, max_keepalive_connections=workers)
    timeout = httpx.Timeout(REQUEST_TIMEOUT_SECONDS)
    with (
        ThreadPoolExecutor(max_workers=workers) as pool,
        httpx.Client(limits=limits, timeout=timeout, trust_env=False) as client,
    ):
        shoppers = Shoppers(
            state_dir=state_dir,
            router_url=router_url,
            pool=pool,
            client=client,
            records=records,
            say=log.info,
            about=log.about_release,
        )
        while not stop.is_set():
            try:
                asked = shoppers.turn()
            except (HeadraceError, OSError) as error:  # of all models; the next turn looks again
                log.say(Level.ERROR, f"shoppers: {error}")
                asked = 0
            if not asked:
                stop.wait(TURN_SECONDS)


def main(argv: Sequence[str] | None = None, records: RecordStore | None = None) -> int:
    """Replay until SIGTERM."""
    parser = argparse.ArgumentParser(prog="headrace shoppers", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True, help="folder of state records")
    parser.add_argument("--router-url", required=True, help="such as http://127.0.0.1:8600")
    parser.add_argument("--workers", type=int, default=4, help="requests at a time")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log = LineLog.from_environment(Subject(process="shoppers"))
    run(options.state_dir, options.router_url, stop, options.workers, log=log, records=records)
    return int(ExitCode.DONE)


if __name__ == "__main__":
    raise SystemExit(main())
