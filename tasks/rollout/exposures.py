"""Exposures: lines of Envoy's access log, landed per rollout with a keyed hash of the user."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import canonical_json, check_format, parse_object
from tasks.contracts.state_file import replace_text
from tasks.rollout.envoy import RouterFiles, router_files
from tasks.rollout.envoy_stats import FailedRpcs, VariantName
from tasks.rollout.exposure_files import as_lines, close_hours, open_file
from tasks.rollout.grpc_faults import is_servers_fault
from tasks.rollout.landed_before import cut_torn_lines, not_landed
from tasks.rollout.step_users import NEITHER, StepUsers

READ_BYTES = 4 * 1024 * 1024
MAX_LOG_BYTES = 16 * 1024 * 1024
MAX_LINE_BYTES = 64 * 1024
QUIET_SECONDS = 2.0  # Envoy flushes far more often
SAY_SECONDS = 60.0  # between two sentences about lines that could not land
# Of each of the two logs, while nothing can land: a router's volume has 2 GiB.
MAX_KEPT_BYTES = 512 * 1024 * 1024
CLOSE_SECONDS = 10.0  # between two looks for hours that are over
# A failure that was logged longer ago is not judged: beside the requests of a quarter of a second
# it would make a candidate look far worse than it is. A request takes less.
JUDGED_SECONDS = 10.0


_ByFile = dict[Path, list[dict[str, Any]]]


def never_reopened() -> bool:
    """Stand for an Envoy that cannot be told: its log is never removed."""
    return False


def say_nothing(_sentence: str) -> None:
    """Stand for nobody who listens."""


def rollout_folder(state_dir: Path, model: str, rollout: str) -> Path:
    """Return where the exposures, outcomes and replayed requests of a rollout lie."""
    return state_dir / model / "traffic" / rollout


def user_key(state_dir: Path) -> bytes:
    """Return the secret of this deployment's user hashes, drawn at first use (owner-only file)."""
    path = router_files(state_dir).folder / "user.key"
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".user.key.{secrets.token_hex(8)}")
    try:
        return bytes.fromhex(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        scratch.touch(mode=0o600)
        scratch.write_text(secrets.token_hex(32), encoding="ascii")
    try:
        os.link(scratch, path)
    except FileExistsError:
        pass  # another process was first: its key counts
    finally:
        scratch.unlink()
    return bytes.fromhex(path.read_text(encoding="ascii"))


def hashed_user(key: bytes, user_id: str) -> str:
    """Return the first 128 bits of HMAC-SHA256 of a user id, in hex."""
    return hmac.new(key, user_id.encode(), hashlib.sha256).hexdigest()[:32]


def exposure_of(line: Mapping[str, Any], key: bytes) -> dict[str, Any] | None:
    """Return the exposure in a parsed access-log line; None where there was no experiment.

    Its variant is `candidate`, `stable`, or `neither` for a request that no bucket could have
    brought to the candidate. ValueError where the user cannot have had that route.
    """
    if not line["user_id"] or line["rollout"] is None or not line.get("step_users"):
        return None  # the last: a line of routes as they were before step_users
    users, at = StepUsers.parse(line["step_users"]), float(line["time"])
    if at >= users.expires_at:
        return None
    bucket = users.bucket_of(str(line["user_id"]))
    if line["variant"] not in {users.variant_of(bucket), NEITHER}:
        message = (
            f"expected {users.variant_of(bucket)} for bucket {bucket}, found {line['variant']}"
        )
        raise ValueError(message)
    return {
        "time": at,
        "request_id": line["request_id"],
        "user": hashed_user(key, str(line["user_id"])),
        "variant": NEITHER if line.get("details") == TOO_LARGE else line["variant"],
        "bucket": bucket,
        "step": int(line["step"]),
        "slot": line["slot"],
        "code": int(line["code"]),
        "grpc_status": line["grpc_status"],
        "flags": line["flags"],
        "attempts": int(line["attempts"]),
        "ms": round(int(line["duration_us"] or 0) / 1000, 3),
    }


TOO_LARGE = "request_payload_too_large"  # Envoy's details of a gRPC request above its limit


def failed_rpc(line: Mapping[str, Any]) -> VariantName | None:
    """Return whose gRPC request a slot's answer failed; None for every other parsed line.

    What Envoy refuses itself is among its 5xx, and what the client gave up is nobody's failure.
    ValueError or TypeError where the line names no status or release.
    """
    status, release = line.get("grpc_status"), line.get("release")
    if status is None or release is None:
        return None
    slots_own = str(line.get("details")).startswith(_SLOTS_OWN)
    if not slots_own or int(line["code"]) >= _SERVER_ERROR or not is_servers_fault(int(status)):
        return None
    return VariantName(
        model=str(line["model"]), variant=str(line["variant"]), release_number=int(release)
    )


# Envoy's details of an answer that a slot gave, or began and broke off.
_SLOTS_OWN = ("via_upstream", "upstream_reset_after_response_started")
_SERVER_ERROR = 500


@dataclass(kw_only=True)
class ExposureLander:
    """Moves complete lines from the access log to the hourly files of their rollout, each once.

    What is about to be appended is noted first, with the length of each file: after a crash the
    files are cut to that length and the same lines land again. A long log, which names users, is
    set aside, landed to its end and removed. One that cannot land gives way to the next: an access
    log that fills the volume would end the router. `bound_logs` sees to it, in another thread than
    `land`, which the volume of the state folder may hold up.
    """

    state_dir: Path
    key: bytes
    reopen: Callable[[], bool] = never_reopened  # tells Envoy to open its log anew
    router: RouterFiles | None = None  # None: below the state folder
    name: str = ""  # of this router: several land side by side, each into files of its own
    max_log_bytes: int = MAX_LOG_BYTES
    max_kept_bytes: int = MAX_KEPT_BYTES
    clock: Callable[[], float] = time.time
    warn: Callable[[str], None] = say_nothing
    bad_lines: int = 0
    dropped_lines: int = 0  # that never landed
    failed_rpcs: Counter[FailedRpcs] = field(default_factory=Counter)  # those seen soon after
    _logs: threading.Lock = field(default_factory=threading.Lock)  # their names and places
    _said_of: int = 0
    _said_at: float = -math.inf
    _reopened: bool = False
    _closed_at: float = -math.inf

    @property
    def files(self) -> RouterFiles:
        """Return the router's files."""
        return self.router or router_files(self.state_dir)

    @property
    def _set_aside(self) -> Path:
        return self.files.access_log.with_suffix(".aside.jsonl")

    def land(self) -> int:
        """Land what is new; return how many exposures."""
        try:
            return self._land()
        finally:
            self.bound_logs()

    def bound_logs(self) -> None:
        """Set a log aside that grows where nothing lands; the one before it is dropped."""
        if self._logs.acquire(blocking=False):  # where it is not free, somebody lands
            try:
                self._bound_logs()
            finally:
                self._logs.release()

    def _land(self) -> int:
        self._recover()
        landed = self._land_file(self._set_aside) + self._land_file(self.files.access_log)
        with self._logs:
            self._rotate()
        self._say_of_bad_lines()
        if self.clock() - self._closed_at >= CLOSE_SECONDS:
            self._closed_at = self.clock()
            close_hours(self.state_dir, self._closed_at, self.name)
        return landed

    def _bound_logs(self) -> None:
        if not self._reopened and _length(self._set_aside) >= self.max_kept_bytes:
            self._reopened = self.reopen()  # Envoy may write to it still
        if _length(self.files.access_log) < self.max_kept_bytes:
            return
        if self._set_aside.exists():
            self._drop(self._set_aside)
        self.files.access_log.rename(self._set_aside)
        self._reopened = self.reopen()

    def _drop(self, path: Path) -> None:
        inode = str(path.stat().st_ino)
        with path.open("rb") as reader:
            reader.seek(self._place().offsets.get(inode, 0))
            dropped = sum(1 for _ in reader)
        path.unlink()
        self.dropped_lines += dropped
        self.warn(
            f"{path}: {dropped} lines were dropped, as they could not land while {self.max_kept_bytes} "
            "bytes more came; mend what keeps exposures from landing, as the keeper's log says it"
        )
        self._note(self._place().without(inode))

    def _say_of_bad_lines(self) -> None:
        new = self.bad_lines - self._said_of
        if new and self.clock() - self._said_at >= SAY_SECONDS:
            self._said_of, self._said_at = self.bad_lines, self.clock()
            self.warn(
                f"{self.files.access_log}: {new} lines are no exposures, as they cannot be read or "
                "name a user who cannot have had that route"
            )

    def _recover(self) -> None:
        """Undo what an earlier landing began and did not finish."""
        place = self._place()
        if not place.appending:
            return
        for name, length in place.appending.items():
            path = self.state_dir / name
            if path.exists() and path.stat().st_size > length:
                os.truncate(path, length)
        self._note_that(lambda now: replace(now, appending={}))

    def _land_file(self, path: Path) -> int:
        try:
            log = path.open("rb")
        except FileNotFoundError:
            return 0
        # Open until its place is noted: no other log gets its inode, or is read in its place.
        with log:
            return self._land_log(log)

    def _land_log(self, log: BinaryIO) -> int:
        status = os.fstat(log.fileno())
        place, inode = self._place(), str(status.st_ino)
        offset = place.offsets.get(inode, 0)
        if offset > status.st_size:  # another file with the same inode
            offset = 0
        if offset == status.st_size:
            return 0
        complete = _complete_lines(log, offset, place.doubtful.get(inode, 0) - offset)
        is_doubtful = bool(complete)
        if not is_doubtful:
            complete = _complete_lines(log, offset, READ_BYTES)
        by_file, failed_rpcs = self._read(complete.splitlines())
        if is_doubtful:  # what landed was counted by an earlier process
            failed_rpcs = []
            left = {one: not_landed(one, found) for one, found in by_file.items()}
            by_file = {one: found for one, found in left.items() if found}
        if by_file:
            lengths = {str(one.relative_to(self.state_dir)): _length(one) for one in by_file}
            self._note_that(lambda now: replace(now, appending=lengths))
        for target, exposures in by_file.items():
            _append(target, as_lines(exposures))
        self._note_that(lambda now: self._landed(now, inode, offset + len(complete)))
        self.failed_rpcs = self.failed_rpcs + Counter(failed_rpcs)  # others may be reading it
        return sum(len(exposures) for exposures in by_file.values())

    def _landed(self, place: _Place, inode: str, offset: int) -> _Place:
        """Return the place when a log has landed up to `offset`; it may have been dropped since."""
        logs = (self._set_aside, self.files.access_log)
        is_there = inode in {str(one.stat().st_ino) for one in logs if one.exists()}
        return place.landed(inode, offset) if is_there else replace(place, appending={})

    def _rotate(self) -> None:
        """Set a long log aside; remove it when Envoy writes to another one and all has landed."""
        if not self._set_aside.exists():
            if not self._has_landed(self.files.access_log, at_least=self.max_log_bytes):
                return
            self.files.access_log.rename(self._set_aside)
            self._reopened = False
        if not self._reopened:
            self._reopened = self.reopen()
            return
        quiet = time.time() - self._set_aside.stat().st_mtime > QUIET_SECONDS
        if quiet and self._has_landed(self._set_aside):
            inode = str(self._set_aside.stat().st_ino)
            self._set_aside.unlink()
            self._note(self._place().without(inode))

    def _has_landed(self, path: Path, *, at_least: int = 0) -> bool:
        try:
            status = path.stat()
        except FileNotFoundError:
            return False
        place = self._place().offsets.get(str(status.st_ino), 0)
        return status.st_size >= at_least and place == status.st_size

    @property
    def _place_file(self) -> Path:
        return self.files.folder / "landed.json"

    def _place(self) -> _Place:
        where = str(self._place_file)
        try:
            record: Any = parse_object(self._place_file.read_bytes(), where)
            check_format(record, "landed", 2, where)
            return _Place.parse(record, where)
        except FileNotFoundError:
            return _Place(offsets={})
        except BadRequestError as error:  # a machine that lost its power can leave it empty
            return self._place_lost(str(error))

    def _place_lost(self, why: str) -> _Place:
        """Begin the logs anew: of what they hold now, what the landed files hold has landed."""
        self.warn(f"{why}; the access log lands from its start, without the lines that have landed")
        cut_torn_lines(self.state_dir, self.name)
        logs = [one for one in (self._set_aside, self.files.access_log) if one.exists()]
        lengths = {str(one.stat().st_ino): one.stat().st_size for one in logs}
        place = _Place(offsets={}, doubtful=lengths)
        self._note(place)
        return place

    def _note_that(self, change: Callable[[_Place], _Place]) -> None:
        with self._logs:
            self._note(change(self._place()))

    def _note(self, place: _Place) -> None:
        record = {"format": "landed/2", **asdict(place)}
        replace_text(self._place_file, canonical_json(record), durable=False)

    def _read(self, lines: Iterable[bytes]) -> tuple[_ByFile, list[FailedRpcs]]:
        """Return the exposures in lines, and whose gRPC requests failed just now."""
        judged_from = self.clock() - JUDGED_SECONDS
        by_file: defaultdict[Path, list[dict[str, Any]]] = defaultdict(list)
        failed: list[FailedRpcs] = []
        for text in lines:
            try:
                line = json.loads(text)
                whose = failed_rpc(line)
                if whose is not None and _ended_at(line) >= judged_from:
                    failed.append((whose, str(line["slot"])))
                exposure = exposure_of(line, self.key)
                folder = rollout_folder(self.state_dir, str(line["model"]), str(line["rollout"]))
            except (AttributeError, ValueError, KeyError, TypeError):
                self.bad_lines += 1
                continue
            if exposure is not None:
                by_file[open_file(folder, exposure["time"], self.name)].append(exposure)
        return dict(by_file), failed


def _ended_at(line: Mapping[str, Any]) -> float:
    return float(line["time"]) + int(line["duration_us"] or 0) / 1e6


@dataclass(frozen=True, kw_only=True)
class _Place:
    """How far each log (by inode) has landed, and the lengths of files before an append begins.

    Up to `doubtful` a log may hold lines that landed before its place was lost.
    """

    offsets: Mapping[str, int]
    appending: Mapping[str, int] = field(default_factory=dict)
    doubtful: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, record: Mapping[str, Any], where: str) -> _Place:
        """Read `landed/2`; BadRequestError names `where`."""
        try:
            found = [record["offsets"], record.get("appending", {}), record.get("doubtful", {})]
            offsets, appending, doubtful = [
                {str(name): int(length) for name, length in one.items()} for one in found
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            message = f"{where}: expected the lengths of what has landed, found: {error!r}"
            raise BadRequestError(message) from error
        return cls(offsets=offsets, appending=appending, doubtful=doubtful)

    def landed(self, inode: str, offset: int) -> _Place:
        """Return the place when a log has landed up to `offset`."""
        return replace(self, offsets={**self.offsets, inode: offset}, appending={})

    def without(self, inode: str) -> _Place:
        """Return the place when a log is gone."""
        offsets, doubtful = dict(self.offsets), dict(self.doubtful)
        offsets.pop(inode, None)
        doubtful.pop(inode, None)
        return replace(self, offsets=offsets, doubtful=doubtful)


def _complete_lines(log: BinaryIO, offset: int, most: int) -> bytes:
    """Return complete lines from `offset` on, `most` bytes of them."""
    log.seek(offset)
    data = log.read(max(0, min(most, READ_BYTES)))
    return data[: data.rfind(b"\n") + 1]


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as writer:
        writer.write(data)


def append_outcomes(folder: Path, outcomes: Iterable[Mapping[str, Any]]) -> None:
    """Append outcomes of a rollout, one JSON line each; half a line of a killed one is cut off."""
    path = folder / "outcomes.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as writer:
        _cut_half_a_line(writer)
        writer.write(as_lines(outcomes))


def _cut_half_a_line(file: BinaryIO) -> None:
    length = file.seek(0, os.SEEK_END)
    start = max(0, length - MAX_LINE_BYTES)
    file.seek(start)
    tail = file.read()
    if tail and not tail.endswith(b"\n"):
        file.truncate(start + tail.rfind(b"\n") + 1)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file, equal lines once, a torn last line left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    complete = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in dict.fromkeys(complete.splitlines()) if line]
