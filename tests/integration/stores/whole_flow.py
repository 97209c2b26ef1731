"""Two releases of one small shop and a rollback, on any store, and all that was said on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headrace_airflow.sealed_store import SealedStore

from tasks.adapters.chain import sealed
from tasks.adapters.mlflow_mirror import answers
from tasks.contracts.artifacts import Address
from tasks.contracts.requests import TrafficPlan
from tasks.contracts.stages import STAGE_FACTS, ArtifactKind, Stage
from tests.faults.form import Form
from tests.faults.line import MAKING, MODEL, Line, Ran, Release
from tests.faults.serving_plan import ship_plan
from tests.faults.shop import Shop
from tests.faults.storefront import Storefront
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
FIRST, SECOND, ABANDONED = "first", "second", "abandoned"
# Made of the request alone: no clock, no port and no user has a part in it.
BEFORE_STAGING = MAKING[: MAKING.index(Stage.STAGE_BUNDLE)]
MLFLOW, MLFLOW_SECONDS = "HEADRACE_MLFLOW", 240
Said = subprocess.CompletedProcess[str]


@dataclass(frozen=True, kw_only=True)
class ToldLine(Line):
    """A line that remembers each stage it ran, and looks at its end as Airflow does."""

    ran: list[Ran] = field(default_factory=list)

    def run(self, stage: Stage, **parts: Any) -> Ran:
        ran = super().run(stage, **parts)
        self.ran.append(ran)
        if ran.done:
            SealedStore(url=self.store_url).check(ran.evidence, stage)
        return ran


@dataclass(kw_only=True)
class Flow:
    """What a whole flow left behind: folder and store may be looked at afterwards."""

    line: ToldLine
    first: Release
    second: Release
    said: dict[str, Said] = field(default_factory=dict)  # name of a command -> how it ended
    served: dict[str, bool] = field(default_factory=dict)  # moment -> did users get that bundle
    first_promoted_at: str = ""
    unreached: set[str] = field(default_factory=set)  # what only the abandoned release was made of
    left: set[str] = field(default_factory=set)  # of that, what lies in the store after gc

    @property
    def contents(self) -> dict[str, str]:
        """Return, for all that is made before staging, the content digest by place and address."""
        found = {}
        for release in (self.first, self.second):
            name = release.pinned.release_id
            found[f"{name}: request {release.address}"] = self._content(release.address)
            for stage in BEFORE_STAGING:
                kind = _product(stage)
                for what, address in (
                    (kind.value, release.made[kind]),
                    (f"gate on {kind.value}", release.reports[kind]),
                ):
                    found[f"{name}: {what} {address}"] = self._content(address)
        return found

    def _content(self, address: str) -> str:
        return self.line.store.manifest(Address.parse(address)).content


def _product(stage: Stage) -> ArtifactKind:
    return STAGE_FACTS[stage].produces


def plan(form: Form) -> TrafficPlan:
    """Two steps; so few users that only a margin as wide as this tells an equal model from a worse."""
    return replace(ship_plan(form, form.requests), margin=0.5)


def run_stages(line: ToldLine, shop: Shop, form: Form, front: Storefront) -> Flow:
    """Release twice, the second time by traffic steps; begin a third release and leave it."""
    first = line.request(FIRST, shop, "markov")
    release_first(first, front)
    second = line.planned(line.request(SECOND, shop, "markov", compression="none"), plan(form))
    flow = Flow(line=line, first=first, second=second)
    flow.first_promoted_at = line.state.history()[-1].at
    flow.served["after the first release"] = served(front, first)
    time.sleep(0.01)  # the ledger's clock has milliseconds
    release_by_steps(second, front)
    flow.served["after the second release"] = served(front, second)
    wait_until_answers(line.environment[MLFLOW])
    demand(second.pass_through(Stage.MIRROR_RELEASE))
    abandoned = line.request(ABANDONED, shop, "popularity")
    demand(abandoned.go_until(Stage.TRAIN_MODEL))
    flow.unreached = {abandoned.address, abandoned.made[ArtifactKind.TRAINED_MODEL]}
    return flow


def release_first(release: Release, front: Storefront) -> None:
    """Make, stage and promote what has no champion before it."""
    demand(release.go_until(Stage.STAGE_BUNDLE) or release.pass_through(Stage.PROMOTE_RELEASE))
    front.settle()


def release_by_steps(release: Release, front: Storefront) -> None:
    """Make and stage a candidate, let users meet it step by step, and promote it."""
    demand(release.go_until(Stage.STAGE_BUNDLE))
    for step in range(1, len(release.pinned.plan.steps) + 1):
        demand(release.pass_through(Stage.SHIFT_TRAFFIC, step=step))
        front.bake(release.pinned.release_id, step)
        demand(release.pass_through(Stage.JUDGE_STEP))
    demand(release.pass_through(Stage.PROMOTE_RELEASE))
    front.settle()


def demand(stop: object) -> None:
    assert stop is None, stop


def served(front: Storefront, release: Release) -> bool:
    return front.answers_of(release.path(ArtifactKind.SERVING_BUNDLE))


def run_commands(flow: Flow, front: Storefront) -> None:
    """What a person does afterwards, by the `headrace` command."""
    model = ("--model", MODEL)
    flow.said["verify"] = headrace(flow.line, "verify", "2", *model)
    flow.said["history"] = headrace(flow.line, "history", *model)
    at = ("--at", flow.first_promoted_at)
    flow.said["history --at"] = headrace(flow.line, "history", *model, *at)
    collect = ("gc", "--grace-hours", "0")
    flow.said["gc --dry-run"] = headrace(flow.line, *collect, "--dry-run")
    flow.said["gc"] = headrace(flow.line, *collect)
    flow.left = flow.unreached & all_sealed(flow.line)
    flow.said["verify after gc"] = headrace(flow.line, "verify", "stable", *model)
    flow.said["verify 1 after gc"] = headrace(flow.line, "verify", "1", *model)
    why = ("--reason", "complaints")
    flow.said["rollback"] = headrace(flow.line, "rollback", *model, "--release", "stable", *why)
    front.settle()
    flow.served["after the rollback"] = served(front, flow.first)
    flow.said["history after rollback"] = headrace(flow.line, "history", *model)
    flow.said["verify after rollback"] = headrace(flow.line, "verify", "2", *model)


def all_sealed(line: Line) -> set[str]:
    return {str(address) for kind in ArtifactKind for address in sealed(line.store, kind)}


def headrace(line: Line, *words: str) -> Said:
    """Run the command as a person who works with this store does."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("HEADRACE_")}
    home = {"HEADRACE_HOME": str(line.folder), "HEADRACE_STORE": line.store_url, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "tasks.cli", *words],
        cwd=ROOT,
        env={**kept, **home},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Yield the address where a real MLflow will answer; it starts while the stages run."""
    port = free_port()
    folder.mkdir(parents=True)
    with (folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
                *("--artifacts-destination", str(folder / "artifacts")),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def wait_until_answers(url: str) -> None:
    deadline = time.monotonic() + MLFLOW_SECONDS
    while not answers(url):
        assert time.monotonic() < deadline, f"MLflow did not answer at {url}"
        time.sleep(0.2)


@contextmanager
def a_line(
    folder: Path, url: str = "", **environment: str
) -> Iterator[tuple[ToldLine, Storefront]]:
    """Yield an empty line with everything that its stages speak to."""
    with mlflow_server(folder / "mlflow") as mlflow:
        (folder / "logs").mkdir()
        told: Mapping[str, str] = {
            MLFLOW: mlflow,
            "HEADRACE_LOG_FILE": str(folder / "logs" / "headrace.jsonl"),
            **environment,
        }
        line = ToldLine(folder=folder, url=url, environment=told)
        front = Storefront(line=line)
        try:
            front.open()
            yield line, front
        finally:
            front.close()
