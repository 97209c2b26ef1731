"""Two chains, sync and deferrable: our operator and the stock one take turns, one pod at a time."""

from __future__ import annotations

import json
import os
from pathlib import Path

from airflow.sdk import DAG, chain

from tests.cluster.dags.matrix_dags import our_operator
from tests.cluster.dags_of_stock.stock_dags import stock_operator

for mode, cells in json.loads(Path(os.environ["OVERHEAD_CELLS"]).read_text()).items():
    with DAG(f"matrix_{mode}", schedule=None, catchup=False) as dag:
        tasks = [
            our_operator(cell) if cell["name"].startswith("ours") else stock_operator(cell)
            for cell in cells
        ]
        chain(*tasks)
    globals()[dag.dag_id] = dag
