"""Fifty processes that ask one state record for something at the same instant.

`python racers.py FOLDER COUNT ASK...` forks COUNT children, lets them go together, and prints what
each was answered as one JSON list. Child number n does ASK[n % len(ASK)]: promote, roll_back,
reserve (a release of its own), or take (reserve a release of its own and promote it).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.rollout.state import ModelState, open_state


def ask(state: ModelState, what: str, number: int) -> str:
    own = f"release-{number}"
    if what == "promote":
        return f"promoted {state.promote('first').digest}"
    if what == "roll_back":
        entry = state.roll_back("first")
        return f"rolled_back {None if entry is None else entry.digest}"
    colour, given = state.reserve_slot(own)
    if what == "reserve":
        return f"reserved {colour.value} {given}"
    return f"promoted {state.promote(own).digest}"


def child(folder: Path, what: str, number: int, gate: int, answers: int) -> None:
    state = open_state(folder / "state", "shop", ObjectStore(f"file://{folder}/store"))
    os.read(gate, 1)  # returns for all at once when the parent closes its end
    try:
        said = ask(state, what, number)
    except BadRequestError as error:
        said = f"refused {error}"
    except Exception as error:  # noqa: BLE001  the parent is told
        said = f"crashed {type(error).__name__}: {error}"
    os.write(answers, (json.dumps(said) + "\n").encode())  # below PIPE_BUF: never mixed
    os._exit(0)


def main() -> None:
    folder, count, asks = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    gate, opener = os.pipe()
    reader, answers = os.pipe()
    for number in range(count):
        if os.fork() == 0:
            os.close(opener)
            os.close(reader)
            child(folder, asks[number % len(asks)], number, gate, answers)
    os.close(answers)
    os.close(opener)
    with os.fdopen(reader) as lines:
        said = [json.loads(line) for line in lines]
    print(json.dumps(said))


if __name__ == "__main__":
    main()
