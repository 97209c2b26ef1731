"""`headrace predict`: the user's history from the serving release, the router's answer, titles."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.adapters.chain import read_payload, walk
from tasks.cli.home import Home
from tasks.cli.ledgers import state_of
from tasks.cli.stack import the_running
from tasks.cli.stores import open_store
from tasks.contracts.artifacts import Address
from tasks.contracts.columns import EVENT_TYPES
from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.served_signatures import NEXT_EVENT
from tasks.contracts.stages import ArtifactKind

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from tasks.adapters.artifact_store import ArtifactStore
    from tasks.cli.console import Console
    from tasks.models.interactions import Interactions

TIMEOUT_SECONDS = 10.0
SHOWN_HISTORY = 3
COLUMNS = ("", "item", "title", "category", "score")


@dataclass(frozen=True, kw_only=True)
class History:
    """What the release's features know of one user: oldest first, with steps ago (1 = latest)."""

    items: tuple[str, ...]
    steps_ago: tuple[int, ...]
    event_types: tuple[str, ...] = ()  # where every model that the user may meet reads them


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The router's answer for one user, best first."""

    items: tuple[str, ...]
    scores: tuple[float, ...]
    milliseconds: float
    next_types: tuple[float, ...] = ()  # chances of EVENT_TYPES, where types were sent


def run(options: argparse.Namespace, console: Console) -> int:
    """Ask for one user and print the answer with titles."""
    home = Home.from_environment()
    router = the_running(home).addresses["router"]
    record = state_of(home, options.model).peek()
    stable = record.stable
    if stable is None or stable.bundle is None:
        message = f"{options.model}: expected a release that serves, found none; release one first"
        raise BadRequestError(message)
    store = open_store(home)
    bundle = Address.parse(stable.bundle)
    features = features_of(store, bundle)
    if not (features / "interactions.npz").exists():
        message = (
            f"{options.model}: expected a recommender, found a classifier of pictures; "
            "POST its pictures to the router (docs/runbooks/release.md)"
        )
        raise BadRequestError(message)
    served = read_payload(store, bundle, "bundle.json")
    others = [record.candidate.bundle] if record.candidate and record.candidate.bundle else []
    typed = NEXT_EVENT in served and all(
        NEXT_EVENT in read_payload(store, Address.parse(other), "bundle.json") for other in others
    )
    max_length = int(str(served["max_length"]))
    history = history_of(features, options.user, max_length, typed=typed)
    answer = ask(router, options.model, options.user, history)
    latest = history.items[: -SHOWN_HISTORY - 1 : -1]
    titles = titles_of(features, [*answer.items, *latest])
    lately = "; ".join(titles[item][0] for item in latest) or "nothing"
    console.say(f"user {options.user}, {len(history.items)} items known, lately: {lately}")
    rows = [
        (str(place), item, *titles[item], f"{score:.4f}")
        for place, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), 1)
    ]
    title = f"{options.model} through {router} in {answer.milliseconds:.0f} ms"
    console.table(title, COLUMNS, rows[: options.k])
    if answer.next_types:
        chances = zip(EVENT_TYPES, answer.next_types, strict=True)
        console.say("next event: " + ", ".join(f"{kind} {share:.0%}" for kind, share in chances))
    if len(rows) < options.k:
        console.say(f"the served graph answers {len(rows)} items")
    return int(ExitCode.DONE)


def features_of(store: ArtifactStore, bundle: Address) -> Path:
    """Return the folder of the feature set that a bundle was made from."""
    seen = walk(store, [bundle])
    found = [m for m in seen.found.values() if m.kind is ArtifactKind.FEATURE_SET]
    if len(found) != 1:
        message = (
            f"{bundle}: expected one feature_set in its chain, found {len(found)}; "
            f"{'; '.join(seen.problems[:2]) or 'run `headrace verify`'}"
        )
        raise BadRequestError(message)
    return store.fetch(found[0])


def history_of(features: Path, user: str, max_length: int, *, typed: bool = False) -> History:
    """Return the latest `max_length` items of a user, as the next request would send them."""
    import numpy as np  # noqa: PLC0415  other commands do not need it

    from tasks.models.event_types import history_types  # noqa: PLC0415
    from tasks.models.interactions import Interactions, history_batch  # noqa: PLC0415

    known = Interactions.load(features / "interactions.npz")
    rows = np.flatnonzero(known.user_ids == user)
    if len(rows) == 0:
        message = f"user {user!r:.60}: expected one of the features, found none; {_examples(known)}"
        raise BadRequestError(message)
    items, ago = history_batch(known, known.after_all(rows), max_length)
    real = items[0] != 0
    kinds: tuple[str, ...] = ()
    if typed:
        codes = history_types(known, known.after_all(rows), max_length)[0][real]
        kinds = tuple(("", *EVENT_TYPES)[code] for code in codes)
    return History(
        items=tuple(str(known.item_ids[item - 1]) for item in items[0][real]),
        steps_ago=tuple(int(steps) for steps in ago[0][real]),
        event_types=kinds,
    )


def _examples(known: Interactions) -> str:
    return f"known are, among {known.num_users}: {', '.join(map(str, known.user_ids[:5]))}"


def titles_of(features: Path, items: list[str]) -> dict[str, tuple[str, str]]:
    """Return title and category of each item; an unknown item is its own title."""
    import pyarrow.parquet as pq  # noqa: PLC0415  other commands do not need it

    table = pq.read_table(
        features / "items.parquet",
        columns=["item_id", "title", "category"],
        filters=[("item_id", "in", items or [""])],
    )
    known = {
        str(row["item_id"]): (str(row["title"] or row["item_id"]), str(row["category"] or ""))
        for row in table.to_pylist()
    }
    return {item: known.get(item, (item, "")) for item in items}


def served_version(router: str, model: str) -> str | None:
    """Return the version that users without an experiment get now, None where nobody answers."""
    request = urllib.request.Request(  # noqa: S310 - the address of our own stack
        f"{router}/v1/models/{model}", headers={"x-model": model}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            versions = json.loads(response.read())["model_version_status"]
    except (OSError, ValueError, KeyError):
        return None
    available = [row["version"] for row in versions if row.get("state") == "AVAILABLE"]
    return str(available[0]) if available else None


def ask(router: str, model: str, user: str, history: History) -> Answer:
    """Send one Predict through the router as this user."""
    body: dict[str, Any] = {
        "inputs": {"history": [list(history.items)], "steps_ago": [list(history.steps_ago)]}
    }
    if history.event_types:
        body["signature_name"] = NEXT_EVENT
        body["inputs"]["event_types"] = [list(history.event_types)]
    request = urllib.request.Request(  # noqa: S310 - the address of our own stack
        f"{router}/v1/models/{model}:predict",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "x-model": model, "x-user-id": user},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    started = time.monotonic()
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            outputs = json.loads(response.read())["outputs"]
    except urllib.error.HTTPError as error:
        message = f"router {router}: answered {error.code}: {error.read()[:300]!r}"
        raise HeadraceError(message) from error
    except (OSError, ValueError, KeyError) as error:
        message = f"router {router}: expected an answer, found {error}; see `headrace status`"
        raise HeadraceError(message) from error
    return Answer(
        items=tuple(outputs["items"][0]),
        scores=tuple(outputs["scores"][0]),
        milliseconds=(time.monotonic() - started) * 1000,
        next_types=tuple(outputs.get("next_types", [()])[0]),
    )
