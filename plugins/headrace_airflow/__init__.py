"""Airflow's side of Headrace: operators, compute profiles, pages. Sees only `tasks.contracts`."""
