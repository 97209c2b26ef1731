"""Faults in the export of a shop: stopped before anything learns from them."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest

from tasks.contracts.stages import Stage
from tests.faults.after import Scene, Tally, nothing_runs_after, stopped_as_said
from tests.faults.fault_table import Fault, faults_of
from tests.faults.form import Form
from tests.faults.plants import DATA_PLANTS
from tests.faults.shop import shop_catalogue, shop_events, write_shop


@pytest.fixture(scope="module")
def export(form: Form) -> tuple[pd.DataFrame, pd.DataFrame]:
    return shop_events(form), shop_catalogue(form)


@pytest.mark.parametrize("fault", faults_of("data"), ids=lambda fault: fault.planted)
def test_it_is_stopped_where_the_table_says_and_users_keep_the_old_model(
    fault: Fault, scene: Scene, export, form: Form, tmp_path: Path, tally: Tally
) -> None:
    began = time.monotonic()
    shop = write_shop(tmp_path / "export", form, *DATA_PLANTS[fault.key](*export))
    release = scene.line.request(fault.key, shop, "markov")
    stop = stopped_as_said(fault, release.go_until(Stage.BUILD_FEATURES))
    nothing_runs_after(stop, release)
    scene.users_keep_the_old_model()
    tally.note(fault, f"exit {int(stop.code)} after {time.monotonic() - began:.1f} s")


def test_the_same_export_without_a_fault_goes_through(
    scene: Scene, export, form: Form, tmp_path: Path
) -> None:
    shop = write_shop(tmp_path / "export", form, *export)
    release = scene.line.request("no-fault-in-the-data", shop, "markov")
    assert release.go_until(Stage.BUILD_FEATURES) is None


def test_every_data_fault_of_the_table_has_its_plant() -> None:
    assert [fault.key for fault in faults_of("data")] == list(DATA_PLANTS)
