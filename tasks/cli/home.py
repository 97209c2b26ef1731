"""Where one installation keeps everything: `$HEADRACE_HOME`, by default `.headrace` beside the code."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.contracts.errors import BadRequestError, HeadraceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.contracts.json_types import Json

CHECKOUT = Path(__file__).resolve().parents[2]
PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
LEAST_ROOM_BYTES = 500_000_000  # Airflow's and MLflow's databases, and the first logs


@dataclass(frozen=True, kw_only=True)
class Home:
    """Paths below `$HEADRACE_HOME`; nothing is created by asking."""

    root: Path
    store_url: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Home:
        """Read `HEADRACE_HOME` and `HEADRACE_STORE`; a relative home is refused.

        So is a store that nobody named, where HEADRACE_ROLLOUT_STATE names the records of a cluster.
        """
        root = Path(environment.get("HEADRACE_HOME") or CHECKOUT / ".headrace").expanduser()
        if not root.is_absolute():
            message = f"HEADRACE_HOME: expected an absolute path, found {str(root)!r}"
            raise BadRequestError(message)
        store, records = (
            environment.get("HEADRACE_STORE"),
            environment.get("HEADRACE_ROLLOUT_STATE"),
        )
        if records and not store:
            message = (
                f"HEADRACE_STORE: expected the store of the releases of {records:.120} "
                "(HEADRACE_ROLLOUT_STATE), found nothing; set it as the cluster's stages have it"
            )
            raise BadRequestError(message)
        return cls(root=root, store_url=store or f"file://{root}/store")

    @property
    def state(self) -> Path:
        """Return the folder of state records, slots and traffic."""
        return self.root / "state"

    @property
    def logs(self) -> Path:
        """Return the folder with one log per part of the stack."""
        return self.root / "logs"

    @property
    def warm_gates(self) -> Path:
        """Return the socket of the warm interpreter."""
        return self.root / "warm-gates"

    @property
    def airflow(self) -> Path:
        """Return `AIRFLOW_HOME`."""
        return self.root / "airflow"

    @property
    def mlflow(self) -> Path:
        """Return the folder of MLflow's database and artifacts."""
        return self.root / "mlflow"

    @property
    def cache(self) -> Path:
        """Return the folder of verified local copies of remote artifacts."""
        return self.root / "cache"

    @property
    def log_file(self) -> Path:
        """Return the JSON lines of all stages and servers; the parts' own logs lie beside it."""
        return self.logs / "headrace.jsonl"

    @property
    def stack_file(self) -> Path:
        """Return the record of ports and parts (`stack/1`)."""
        return self.root / "stack.json"

    @property
    def lock_file(self) -> Path:
        """Return the file that a running supervisor holds locked."""
        return self.root / "supervisor.lock"

    @property
    def secrets_file(self) -> Path:
        """Return the generated passwords and keys, readable by the owner only."""
        return self.root / "secrets.json"

    def create(self) -> None:
        """Make the folders, the home itself readable by the owner only."""
        try:
            self.root.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            for folder in (self.state, self.logs, self.airflow, self.mlflow, self.cache):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            message = (
                f"{self.root}: expected a folder that can be written, found: {error}; "
                "set HEADRACE_HOME to another folder"
            )
            raise BadRequestError(message) from error

    def demand_room(self) -> None:
        """Refuse to start where the disk has no room for a stack's databases and logs."""
        free = shutil.disk_usage(self.root).free
        if free < LEAST_ROOM_BYTES:
            message = (
                f"{self.root}: expected at least {LEAST_ROOM_BYTES / 1e6:.0f} MB of free disk, "
                f"found {free / 1e6:.0f} MB; free some space (`headrace gc` removes what no "
                "release reaches), or set HEADRACE_HOME to another disk"
            )
            raise HeadraceError(message)


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What the parts of the stack need to trust each other; made once per home."""

    airflow_password: str
    jwt_secret: str
    api_secret_key: str

    @classmethod
    def load_or_make(cls, home: Home) -> Secrets:
        """Return the secrets of this home, generated on first use into a file of mode 600."""
        if not home.secrets_file.exists():
            made = {name: secrets.token_urlsafe(32) for name in cls.__dataclass_fields__}
            write_private(home.secrets_file, json.dumps({"format": "secrets/1", **made}))
        return cls.load(home)

    @classmethod
    def load(cls, home: Home) -> Secrets:
        """Return the secrets of this home; nothing is written where there are none."""
        try:
            record = read_json(home.secrets_file)
        except FileNotFoundError as error:
            message = (
                f"{home.secrets_file}: expected the secrets of the running stack, found no such "
                "file; `headrace down` and `headrace up` make new ones"
            )
            raise BadRequestError(message) from error
        try:
            return cls(**{name: str(record[name]) for name in cls.__dataclass_fields__})
        except KeyError as error:
            message = (
                f"{home.secrets_file}: expected the field {error}, found none; "
                "stop the stack and remove the file to have new secrets made"
            )
            raise BadRequestError(message) from error


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as writer:
        writer.write(text)
    scratch.replace(path)


def read_json(path: Path) -> dict[str, Json]:
    """Return the JSON object in a file; anything else is an error that names the file."""
    from tasks.contracts.json_types import parse_object  # noqa: PLC0415

    return parse_object(path.read_bytes(), str(path))
