from pathlib import Path

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.contracts.slot_hosts import COLOURS, slots_text
from tasks.rollout.record import Colour
from tasks.rollout.routes import SlotAddress
from tasks.rollout.routes import parse_slots as parse_for_router
from tasks.serving.slot_folder import parse_slots

HOST = "headrace-{model}-{colour}.prod.svc"


def test_the_colours_are_those_of_the_state_record() -> None:
    assert tuple(colour.value for colour in Colour) == COLOURS


def test_router_and_stages_find_a_slot_by_the_same_name() -> None:
    text = slots_text(HOST, Path("/srv/headrace"), "shop")
    host = "headrace-shop-blue.prod.svc"
    found = parse_for_router(text, "here")[Colour.BLUE]
    assert found == SlotAddress(grpc=8500, rest=8501, host=host)
    slot = parse_slots(text, "here")["blue"]
    assert (slot.grpc_address, slot.rest_url) == (f"{host}:8500", f"http://{host}:8501")
    assert slot.directory == Path("/srv/headrace/shop/slots/blue")


@pytest.mark.parametrize("template", ("slot", "a-{model}", "a-{colour}", "A_{model}-{colour}", ""))
def test_a_template_that_names_no_slot_of_its_own_is_refused(template: str) -> None:
    with pytest.raises(BadRequestError, match="HEADRACE_SLOT_HOST: expected a host name with"):
        slots_text(template, Path("/srv"), "shop")
