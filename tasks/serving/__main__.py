"""`python -m tasks.serving`: the same as `headrace serve`."""

import sys

from tasks.serving.server import main

sys.exit(main(sys.argv[1:]))
