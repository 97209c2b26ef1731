"""State records as files of one machine: `<state>/<model>/state.json`, changed under a lock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.contracts.bake import STATE_FILE, state_path
from tasks.contracts.record_store import TextChange
from tasks.contracts.state_file import locked, replace_text


@dataclass(frozen=True, kw_only=True)
class FileRecords:
    """The records below a state folder, among threads and processes of one machine."""

    state_dir: Path

    def models(self) -> list[str]:
        """Return the models that have a record, sorted."""
        return sorted(path.parent.name for path in self.state_dir.glob(f"*/{STATE_FILE}"))

    def read(self, model: str) -> bytes | None:
        """Return a model's record, None where there is none yet."""
        try:
            return state_path(self.state_dir, model).read_bytes()
        except FileNotFoundError:
            return None

    def update(self, model: str, change: TextChange) -> None:
        """Replace the record under the lock, so that `change` is called once."""
        path = state_path(self.state_dir, model)
        with locked(path.with_name("lock")):
            text = change(self.read(model))
            if text is not None:
                replace_text(path, text)

    def where(self, model: str) -> str:
        """Return the path of a model's record."""
        return str(state_path(self.state_dir, model))
