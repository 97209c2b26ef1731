from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.contracts.stages import ArtifactKind, Stage
from tests.faults.after import Scene, Tally
from tests.faults.fault_table import FAULTS
from tests.faults.form import Form, chosen_form
from tests.faults.line import Line, Release
from tests.faults.shop import Shop, shop_catalogue, shop_events, write_shop
from tests.faults.storefront import Storefront

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what goes through the line, and give time for the champion that the first makes."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if Path(__file__).parent in item.path.parents and "line" in fixtures:
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.timeout(1800))
            if item.get_closest_marker("slow") is None:
                item.add_marker(pytest.mark.trial)


@pytest.fixture(scope="session")
def form() -> Form:
    return chosen_form()


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, form: Form) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    return write_shop(folder, form, shop_events(form), shop_catalogue(form))


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return Line(folder=tmp_path_factory.mktemp("line"))


@pytest.fixture(scope="session")
def storefront(line: Line) -> Iterator[Storefront]:
    front = Storefront(line=line)
    front.open()
    yield front
    front.close()


@pytest.fixture(scope="session")
def champion(line: Line, shop: Shop, storefront: Storefront) -> Release:
    """A release that went the whole way, and serves."""
    release = line.request("champion", shop, "markov")
    stopped = release.go_until(Stage.STAGE_BUNDLE) or release.pass_through(Stage.PROMOTE_RELEASE)
    assert stopped is None, stopped
    storefront.settle()
    assert storefront.answers_of(release.path(ArtifactKind.SERVING_BUNDLE))
    return release


@pytest.fixture
def scene(line: Line, storefront: Storefront, champion: Release) -> Scene:
    return Scene(line=line, storefront=storefront, champion=champion, before=line.now())


TALLY = Tally()


@pytest.fixture(scope="session")
def tally() -> Tally:
    return TALLY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the fault table with this run's figures."""
    if not TALLY.figures and not TALLY.verdicts:
        return
    terminalreporter.section(f"planted faults, {chosen_form().name} form")
    for fault in FAULTS:
        found = TALLY.figures.get(fault.key, "not run")
        terminalreporter.write_line(f"| {fault.planted} | {fault.hop} | {found} |")
    for verdict in TALLY.verdicts:
        terminalreporter.write_line(verdict)
