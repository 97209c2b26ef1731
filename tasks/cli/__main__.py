"""`python -m tasks.cli`: the `headrace` command of a checkout that is not installed."""

import sys

from tasks.cli.command import main

sys.exit(main())
