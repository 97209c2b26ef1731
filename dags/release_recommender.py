"""Release a recommender: shopping events -> gated, compressed, canaried model behind the router.

Every arrow is one stage that seals one artifact, and almost every one has a gate behind it:

`request` pins who is champion and what was asked, `events` to `evaluation` make the candidate,
`stage_bundle` loads it into a free slot, up to eight steps show it to growing shares of users,
`promote_release` makes it stable. A refused gate never reaches promotion; from staging on it rolls
back. Sealed work is re-used: a second run with nothing changed answers in seconds.

* `stage_bundle` skipped: the same bytes serve already. Steps skipped: beyond the plan, or a first
  release. `roll_back_release` skipped: nothing was staged.
* `mirror_release` skipped: MLflow was away; clear that task when it is back. It fails nothing.
* Start one by hand with Trigger, or `headrace release`. Runbook: docs/runbooks/release.md
"""

from __future__ import annotations

from airflow.sdk import DAG
from headrace_airflow.deployment import the_deployment
from headrace_airflow.release_form import release_form
from headrace_airflow.release_graph import RETRIES, release_graph

with DAG(
    "release_recommender",
    doc_md=__doc__,
    params=release_form(the_deployment().compute),
    schedule=None,
    catchup=False,
    max_active_runs=4,
    default_args=RETRIES,
    tags=["headrace"],
):
    release_graph()
