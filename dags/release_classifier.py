"""Release a classifier of product pictures: by the stages, gates and traffic steps of every release.

`request` pins who is champion and what was asked, `ingest_events` reads labelled pictures in place
of events, and so on to `promote_release`. Every arrow is one stage that seals one artifact, and
almost every one has a gate behind it. A refused gate never reaches promotion.

* Users of a step are pictures that were kept for it: each is shown to the candidate or to stable,
  and the outcome is whether its class was named.
* Recipes: `majority_class` (a first release, the opponent of later ones), `class_means`,
  `residual_picture_net` in torch, `keras_two_convolutions` in Keras 3 (exported natively, with the
  compression `none`).
* Start one by hand with Trigger, or `headrace release --dataset fashion-mnist`.
"""

from __future__ import annotations

from airflow.sdk import DAG
from headrace_airflow.deployment import the_deployment
from headrace_airflow.release_form import release_form
from headrace_airflow.release_graph import RETRIES, release_graph
from tasks.contracts.catalogues import Material

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
    release_graph(train_ranks=1)  # picture recipes train alone
