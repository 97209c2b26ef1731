"""gc on both kinds of store: what a release reaches stays, whatever happened to the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.contracts.artifacts import Address
from tasks.contracts.errors import BadRequestError
from tests.integration.stores.faulty_proxy import FORBID, Asked, Plan
from tests.unit.cli.any_ledger import (
    HOMES,
    any_plan,
    collect,
    gc_keeps_what_is_reached,
    verified,
)
from tests.unit.cli.any_ledger import (
    Plan as Ledger,
)
from tests.unit.cli.conftest import TinyReleases

pytestmark = pytest.mark.trial
EXAMPLES = int(os.environ.get("HEADRACE_GC_EXAMPLES", "3"))  # `make mutations` tries more


@pytest.mark.timeout(1800)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example has a new store
)
@given(ledger=any_plan, young=st.booleans(), whose=st.sampled_from(HOMES))
def test_gc_never_removes_what_any_release_reaches(
    store_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    ledger: Ledger,
    young: bool,
    whose: str,
) -> None:
    folder = Path(tmp_path_factory.mktemp("gc"))
    tiny = TinyReleases(root=folder, url=f"{store_url}/{folder.name}")
    gc_keeps_what_is_reached(tiny, ledger, young=young, whose=whose)


def test_a_gc_that_is_stopped_leaves_no_half_artifact(
    s3_url: str, plan: Plan, tmp_path: Path
) -> None:
    """The manifest goes first: what is left of its folder is no artifact, and goes the next time."""
    tiny = TinyReleases(root=tmp_path, url=s3_url)
    tiny.promote("kept")
    refused = {str(one.address) for one in tiny.make("refused").values()}

    def only_the_first_deletion(asked: Asked, number: int) -> str | None:
        return FORBID if asked.method == "POST" and number > 1 else None

    with plan.doing(only_the_first_deletion), pytest.raises(BadRequestError, match="remove"):
        collect(tiny)
    unsealed = {address for address in refused if not is_sealed(tiny, address)}
    assert len(unsealed) == 1
    assert list(tiny.store.objects.list(*unsealed)) != []
    assert verified(tiny, "kept") == []
    assert refused <= set(collect(tiny))
    assert verified(tiny, "kept") == []


def is_sealed(tiny: TinyReleases, address: str) -> bool:
    return tiny.store.find(Address.parse(address)) is not None
