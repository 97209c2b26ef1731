"""Make and judge a classifier of product pictures: by the stages and gates of every release.

`request` pins who is champion and what was asked; `ingest_events` reads labelled pictures in place
of events, and so on to `evaluate_model`, each with its gate behind it. A refused gate ends the run.
Sealed work is re-used: a second run with nothing changed answers in seconds.

* The run ends with the evaluation's gate: slots and the replay ask for histories so far, not for
  pictures, so that a bundle which passed is not staged here.
* Recipes: `majority_class` (the opponent of later ones), `class_means`, `residual_picture_net` in
  torch, `keras_two_convolutions` in Keras 3 (exported natively, with the compression `none`).
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, chain
from headrace_airflow.deployment import the_deployment
from headrace_airflow.release_form import form_of_run, pinned_champion, release_form
from headrace_airflow.stage_operator import run_stage
from tasks.contracts.catalogues import Material
from tasks.contracts.stages import Stage

RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=15)}

with DAG(
    "release_classifier",
    doc_md=__doc__,
    params=release_form(the_deployment().compute, material=Material.PICTURES),
    schedule=None,
    catchup=False,
    max_active_runs=4,
    default_args=RETRIES,
    tags=["headrace"],
):
    request = run_stage(Stage.REQUEST_RELEASE, settings_from=form_of_run)
    pictures = run_stage(Stage.INGEST_EVENTS, release=request)
    features = run_stage(Stage.BUILD_FEATURES, release=request, reads={"events": pictures})
    model = run_stage(Stage.TRAIN_MODEL, release=request, reads={"features": features})
    small = run_stage(
        Stage.COMPRESS_MODEL, release=request, reads={"model": model, "features": features}
    )
    bundle = run_stage(Stage.BUNDLE_MODEL, release=request, reads={"model": small})
    evaluation = run_stage(
        Stage.EVALUATE_MODEL,
        release=request,
        reads={"bundle": bundle, "features": features},
        reads_from=pinned_champion,
    )
    made = (pictures, features, model, small, bundle, evaluation)
    chain(request.task, *[task for one in made for task in (one.task, one.last)])
