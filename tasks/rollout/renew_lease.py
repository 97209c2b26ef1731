"""`python -m tasks.rollout.renew_lease STATE MODEL RELEASE SECONDS`: light enough for a trigger."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.record_store import RecordStore
from tasks.rollout.state import open_state


def renew(
    state_dir: Path,
    model: str,
    release_id: str,
    seconds: float,
    records: RecordStore | None = None,
) -> str:
    """Renew the lease and return a sentence; a release no longer in progress is refused."""
    state = open_state(state_dir, model, records=records)
    in_progress = state.peek().release_id
    if in_progress != release_id:
        message = (
            f"{model}: expected release {release_id} in progress, found {in_progress or 'none'}; "
            "its lease cannot be renewed"
        )
        raise BadRequestError(message)
    phase = state.renew(release_id, seconds)
    return f"{model}: {release_id} is {phase} ({phase.meaning})"


def main(argv: Sequence[str] | None = None, records: RecordStore | None = None) -> int:
    """Renew once; print why it could not be done."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 4:
        print("expected: renew_lease STATE_DIR MODEL RELEASE_ID SECONDS", file=sys.stderr)
        return int(ExitCode.USAGE)
    folder, model, release_id, seconds = arguments
    try:
        print(renew(Path(folder), model, release_id, float(seconds), records))
    except HeadraceError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    return int(ExitCode.DONE)


if __name__ == "__main__":
    raise SystemExit(main())
