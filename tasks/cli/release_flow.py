"""Trigger a release through Airflow's API, follow it, and say how it ended."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tasks.adapters.object_store import ObjectStore
from tasks.cli.conclusion import COLUMNS, Ending, conclude, stage_rows
from tasks.cli.follow import Follower
from tasks.cli.home import Home, read_json
from tasks.cli.ledgers import opened
from tasks.cli.screens import screen_for
from tasks.cli.stack import airflow_of, the_running
from tasks.cli.stores import open_store
from tasks.contracts.catalogues import (
    DATASETS,
    FIRST_RELEASE_RECIPES,
    RELEASE_DAGS,
    Material,
    datasets_of,
)
from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.state_file import locked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.cli.airflow_api import Airflow
    from tasks.cli.console import Console
    from tasks.contracts.json_types import Json

DAG_SECONDS = 60.0
POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Form:
    """The trigger form of the DAG, field by field."""

    model: str
    dataset: str
    recipe: str
    compression: str = "int8"
    plan: str = "replay"
    bake_seconds: int | None = None
    seed: int = 1
    approval: bool = False
    as_of: str | None = None
    events_url: str | None = None
    catalogue_url: str | None = None
    mapping_url: str | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the form as Airflow takes it."""
        return asdict(self)

    @property
    def dag(self) -> str:
        """Return the DAG that releases this data set."""
        return RELEASE_DAGS[DATASETS[self.dataset].material]

    @property
    def first_recipe(self) -> str:
        """Return what is released where nobody serves yet."""
        return FIRST_RELEASE_RECIPES[DATASETS[self.dataset].material]

    def first(self) -> Form:
        """Return the release that gives this one an opponent."""
        return replace(self, recipe=self.first_recipe, approval=False)


def release_with_opponent(home: Home, form: Form, console: Console, *, first: bool) -> Ending:
    """Release `form`; where nobody serves yet, the simplest first, unless `first` says not to."""
    needs_opponent = not first and form.recipe != form.first_recipe
    if needs_opponent and opened(home, form.model).champion() is None:
        console.say(
            f"{form.model} has no champion: {form.first_recipe} is released first, so that "
            f"{form.recipe} has an opponent"
        )
        ending = release_one(home, form.first(), console)
        if ending.exit_code:
            return ending
    return release_one(home, form, console)


def release_one(home: Home, form: Form, console: Console) -> Ending:
    """Trigger one release, show it until it ends, print its table and its verdict."""
    report = the_running(home)
    airflow = airflow_of(home, report)
    await_dag(airflow, form.dag)
    airflow.unpause(form.dag)
    started = time.monotonic()
    run = trigger_alone(home, airflow, form)
    title = f"release {run}: {form.recipe} on {form.dataset} for {form.model}"
    console.say(f"{title}\n  {airflow.base_url}/dags/{form.dag}/runs/{run}")
    with screen_for(console, "") as screen:
        view = Follower(
            airflow=airflow,
            dag=form.dag,
            run=run,
            traffic_words=lambda: traffic_words(home, form.model, run),
        ).follow(screen)
    store = open_store(home)
    rows = [row.cells() for row in stage_rows(view, store)]
    seconds = time.monotonic() - started
    tasks = sum(task.state in {"success", "failed"} for task in view.tasks)
    console.table(f"{run}: {tasks} tasks in {seconds:.0f} s", COLUMNS, rows)
    ending = conclude(view, store, airflow.base_url)
    console.say(f"{form.model}: {ending.sentence}")
    for line in ending.lines:
        console.say(f"  {line}")
    return ending


def traffic_words(home: Home, model: str, release_id: str) -> str:
    """Return how far the replay of this release's traffic step is, as the shoppers wrote it down."""
    path = home.state / model / "traffic" / "progress.json"
    record = read_json(path) if path.exists() else {}
    if record.get("release_id") == release_id:
        return (
            f"{record.get('sent')} of {record.get('planned')} requests asked "
            f"{record.get('requests')}, users {record.get('users')}, failed {record.get('failed')}"
        )
    return "waiting for the first users"


def trigger_alone(home: Home, airflow: Airflow, form: Form) -> str:
    """Trigger the release unless another one of its model is on its way; return the run's id."""
    folder = home.state / form.model
    folder.mkdir(exist_ok=True)  # the stack starts the model's slots now
    with locked(folder / "trigger.lock"):
        run = run_id(form)
        opened(home, form.model, ObjectStore(home.store_url)).demand_free(run)
        for other in airflow.runs(form.dag):
            if model_of(other.conf, DATASETS[form.dataset].material) == form.model:
                message = (
                    f"{form.model}: another release is refused, one release of a model at a time: "
                    f"{other.words} has not ended; wait for it, or end it in Airflow: "
                    f"{airflow.base_url}/dags/{form.dag}/runs/{other.run_id}"
                )
                raise BadRequestError(message)
        return airflow.trigger(form.dag, form.to_json(), run)


def model_of(conf: Mapping[str, Json], material: Material = Material.EVENTS) -> str:
    """Return the model that a run of a release DAG is about; what a form leaves out is default."""
    dataset = str(conf.get("dataset") or next(iter(datasets_of(material))))
    named = conf.get("model")
    return str(named) if named or dataset not in DATASETS else DATASETS[dataset].default_model


def run_id(form: Form) -> str:
    """Return a new id that says which model, when; two at the same second differ."""
    moment = datetime.now(tz=UTC).strftime("%Y%m%dT%H%M%S")
    return f"{form.model}-{moment}-{os.urandom(2).hex()}"


def await_dag(airflow: Airflow, dag: str) -> None:
    """Wait until Airflow has parsed the DAG; what stops it from parsing is said."""
    deadline = time.monotonic() + DAG_SECONDS
    while not airflow.has_dag(dag):
        errors = airflow.import_errors()
        if errors:
            message = f"Airflow: expected the DAG {dag}, found: {'; '.join(errors)}"
            raise HeadraceError(message)
        if time.monotonic() > deadline:
            message = (
                f"Airflow: expected the DAG {dag} within {DAG_SECONDS:.0f} s, found none; see "
                "logs/airflow-dag-processor.log"
            )
            raise HeadraceError(message)
        time.sleep(POLL_SECONDS)
