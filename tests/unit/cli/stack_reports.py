"""What a running stack's record says, made by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tasks.cli.parts import Status
from tasks.cli.processes import Identity
from tasks.cli.stack import PartReport, StackReport


def a_report(**fields: Any) -> StackReport:
    address = "http://127.0.0.1:9"
    defaults: dict[str, Any] = {
        "stack_id": "s",
        "supervisor": Identity.of(os.getpid()),
        "addresses": {"airflow": address, "mlflow": address, "router": address},
        "notes": (),
        "data_folder": None,
        "parts": (),
    }
    return StackReport(**defaults | fields)


def a_part(name: str, **fields: Any) -> PartReport:
    defaults: dict[str, Any] = {
        "status": Status.READY,
        "restarts": 0,
        "note": "",
        "log": Path("/logs", f"{name}.log"),
        "process": None,
    }
    return PartReport(name=name, **defaults | fields)
