"""`python -m tasks.cli.steer_step`: `tasks.rollout.steer`, wherever the records and the ledger lie."""

import os
import sys

from tasks.adapters.config_map_records import named_records
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import HeadraceError
from tasks.rollout.steer import main

if __name__ == "__main__":
    try:
        url = os.environ.get("HEADRACE_STORE")
        ledger = ObjectStore(url) if url else None
        sys.exit(main(records=named_records(os.environ), ledger=ledger))
    except HeadraceError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.exit_code))
