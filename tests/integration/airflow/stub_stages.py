"""Stands in for `python` of the local runtime: seals a small artifact for every stage.

What a stage does is looked up in $HEADRACE_STATE/behaviour.json by `<stage>`, `<stage>:<step>` or
`gate:<kind>`, `gate:<kind>:<step>`: refuse, bad_request, crash, lie, hang, same (bytes
as any other run told so). Nothing said: it works.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.artifacts import Address, InputReference, termination_sentence
from tasks.contracts.requests import Champion
from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import STAGE_FACTS, Stage
from tasks.stages.request_release import request_from_form

STATE = Path(os.environ["HEADRACE_STATE"])


def behaviour(request: StageRequest) -> str:
    path = STATE / "behaviour.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    name = request.stage.value
    if request.stage is Stage.GATE_ARTIFACT:
        name = "gate:" + Address.parse(request.reads["artifact"]).kind.value
    step: object = request.settings.get("step")
    if step is None and "artifact" in request.reads:
        step = _step_of(request)
    return str(table.get(f"{name}:{step}", table.get(name, "")))


def _step_of(request: StageRequest) -> object:
    store = ArtifactStore(ObjectStore(request.store_url), cache=STATE / "cache")
    return store.manifest(Address.parse(request.reads["artifact"])).config.get("step")


def payload(request: StageRequest, out: Path) -> None:
    if request.stage is Stage.REQUEST_RELEASE:
        champion = STATE / "champion.json"
        found = Champion(**json.loads(champion.read_text())) if champion.exists() else None
        text = request_from_form(request.settings, found).to_text()
        (out / "request.json").write_text(text)
    elif request.stage is Stage.SHIFT_TRAFFIC:
        started = datetime.now(tz=UTC).isoformat()
        (out / "step.json").write_text(json.dumps({"started_at": started}))
    elif request.stage is Stage.GATE_ARTIFACT:
        (out / "report.html").write_text("<h1>gate</h1><script>alert(1)</script>")
    else:
        same = behaviour(request) == "same"
        (out / "payload.txt").write_text("same bytes" if same else f"made at {time.time_ns()}")


def seal(request: StageRequest) -> str:
    objects = ObjectStore(request.store_url)
    store = ArtifactStore(objects, cache=STATE / "cache")
    out = STATE / f"out-{os.getpid()}"
    out.mkdir(parents=True)
    payload(request, out)
    inputs = {
        name: InputReference(address=text, content=store.manifest(Address.parse(text)).content)
        for name, text in request.reads.items()
    }
    config = dict(request.settings) | {"release": request.release, "try": time.time_ns()}
    recipe = Recipe(
        kind=STAGE_FACTS[request.stage].produces,
        stage=request.stage,
        inputs=inputs,
        config=config,
        code="0" * 64,
    )
    return termination_sentence(store.seal(recipe, out, {}), f"stub {request.stage.value}")


def main() -> int:
    request = StageRequest.parse(Path(sys.argv[-1]).read_text(), sys.argv[-1])
    told = behaviour(request)
    log = Path(os.environ["HEADRACE_TERMINATION_LOG"])
    print(f"stub {request.stage.value} {dict(request.settings)} {told}", flush=True)
    if told == "hang":
        time.sleep(600)
    if told == "crash":
        log.write_text("crashed: as told")
        return 1
    if told == "bad_request":
        log.write_text("bad request: as told")
        return 4
    sentence = seal(request)
    if told == "lie":
        address, _, digest = sentence.partition("sha256:")
        log.write_text(f"{address}sha256:{'0' * 64}{digest[64:]}")
        return 0
    log.write_text(sentence)
    return 3 if told == "refuse" else 0


if __name__ == "__main__":
    sys.exit(main())
