"""One rank of a group of pods: torchrun's rendezvous, then a module, then that module's exit code.

`python -m tasks.training.launch MODULE ARGUMENT...`; PET_* variables say which rank of how many. A module that makes a process group
ends it by `destroy_process_group`: left to Python's exit, its threads can abort a rank whose work is done (SIGABRT, exit code 134).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

SIGNALLED = 128


def main(arguments: Sequence[str]) -> int:
    """Run the module as this rank; torchrun itself would turn every failure into exit code 1."""
    try:
        run(parse_args(["--module", *arguments]))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        code = int(failure.exitcode)
        return SIGNALLED - code if code < 0 else code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
