"""`python -m tasks.cli.steer_step`: `tasks.rollout.steer`, wherever the records lie."""

import os
import sys

from tasks.adapters.config_map_records import named_records
from tasks.contracts.errors import HeadraceError
from tasks.rollout.steer import main

if __name__ == "__main__":
    try:
        sys.exit(main(records=named_records(os.environ)))
    except HeadraceError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.exit_code))
