"""Two chains, sync and deferrable: our operator and the stock one take turns, one pod at a time.

A pause lies between two pods: the end of one in Airflow and on its node is no part of the next one's start.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, chain

from tests.cluster.dags.matrix_dags import our_operator
from tests.cluster.dags_of_stock.stock_dags import stock_operator

PAUSE_SECONDS = 4

for mode, cells in json.loads(Path(os.environ["OVERHEAD_CELLS"]).read_text()).items():
    with DAG(f"matrix_{mode}", schedule=None, catchup=False) as dag:
        tasks = []
        for place, cell in enumerate(cells):
            made = our_operator(cell) if cell["name"].startswith("ours") else stock_operator(cell)
            pause = BashOperator(task_id=f"pause_{place:03}", bash_command=f"sleep {PAUSE_SECONDS}")
            tasks += [made, pause]
        chain(*tasks)
    globals()[dag.dag_id] = dag
