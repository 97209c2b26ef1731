"""Exposures: lines of Envoy's access log, landed per rollout with a keyed hash of the user."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contracts.json_types import canonical_json, parse_object
from tasks.contracts.state_file import replace_text
from tasks.rollout.envoy import RouterFiles, router_files

READ_BYTES = 4 * 1024 * 1024


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
    """Return the exposure in a parsed access-log line; None where there was no experiment."""
    if line["bucket"] is None or line["rollout"] is None:
        return None
    return {
        "time": float(line["time"]),
        "request_id": line["request_id"],
        "user": hashed_user(key, str(line["user_id"])),
        "variant": line["variant"],
        "bucket": int(line["bucket"]),
        "step": int(line["step"]),
        "slot": line["slot"],
        "code": int(line["code"]),
        "grpc_status": line["grpc_status"],
        "flags": line["flags"],
        "attempts": int(line["attempts"]),
        "ms": round(int(line["duration_us"] or 0) / 1000, 3),
    }


@dataclass(kw_only=True)
class ExposureLander:
    """Moves complete lines from the access log to `exposures.jsonl` of their rollout.

    The place in the log is written after the lines: a crash between lands lines twice, equal byte
    for byte, and whoever reads exposures drops equal lines.
    """

    state_dir: Path
    key: bytes
    bad_lines: int = 0

    @property
    def files(self) -> RouterFiles:
        """Return the router's files."""
        return router_files(self.state_dir)

    @property
    def _place_file(self) -> Path:
        return self.files.folder / "landed.json"

    def land(self) -> int:
        """Land what is new; return how many exposures."""
        try:
            status = self.files.access_log.stat()
        except FileNotFoundError:
            return 0
        offset = self._offset(status)
        if offset >= status.st_size:
            return 0
        with self.files.access_log.open("rb") as reader:
            reader.seek(offset)
            data = reader.read(READ_BYTES)
        complete = data[: data.rfind(b"\n") + 1]
        landed = self._append(complete.splitlines())
        place = {"format": "landed/1", "inode": status.st_ino, "offset": offset + len(complete)}
        replace_text(self._place_file, canonical_json(place), durable=False)
        return landed

    def _offset(self, status: os.stat_result) -> int:
        try:
            place: Any = parse_object(self._place_file.read_bytes(), str(self._place_file))
        except FileNotFoundError:
            return 0
        same = place["inode"] == status.st_ino and place["offset"] <= status.st_size
        return int(place["offset"]) if same else 0

    def _append(self, lines: Iterable[bytes]) -> int:
        by_rollout: defaultdict[Path, list[dict[str, Any]]] = defaultdict(list)
        for text in lines:
            try:
                line = json.loads(text)
                exposure = exposure_of(line, self.key)
                folder = rollout_folder(self.state_dir, str(line["model"]), str(line["rollout"]))
            except (ValueError, KeyError, TypeError):
                self.bad_lines += 1
                continue
            if exposure is not None:
                by_rollout[folder].append(exposure)
        for folder, exposures in by_rollout.items():
            _append_lines(folder / "exposures.jsonl", exposures)
        return sum(len(exposures) for exposures in by_rollout.values())


def _append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as writer:
        writer.write("".join(f"{canonical_json(record)}\n" for record in records))


def append_outcomes(folder: Path, outcomes: Iterable[Mapping[str, Any]]) -> None:
    """Append outcomes of a rollout, one JSON line each."""
    _append_lines(folder / "outcomes.jsonl", outcomes)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file, equal lines once, a torn last line left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    complete = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in dict.fromkeys(complete.splitlines()) if line]
