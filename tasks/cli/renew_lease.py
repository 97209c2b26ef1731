"""`python -m tasks.cli.renew_lease`: `tasks.rollout.renew_lease`, wherever the records lie."""

import os
import sys

from tasks.adapters.config_map_records import named_records
from tasks.contracts.errors import HeadraceError
from tasks.rollout.renew_lease import main

if __name__ == "__main__":
    try:
        sys.exit(main(records=named_records(os.environ)))
    except HeadraceError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.exit_code))
