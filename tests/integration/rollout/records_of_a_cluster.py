"""Slots that serve a first release, and its record in a ConfigMap of a fake API."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tasks.adapters.config_map_records import ConfigMapRecords
from tasks.adapters.kube_api import KubeApi, server_at
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, open_state
from tests.fake_config_maps import FakeConfigMaps, serving
from tests.fake_kubernetes import kubeconfig
from tests.integration.rollout.conftest import Slot, _slots_record
from tests.integration.rollout.upstreams import Mood
from tests.ports import free_port


@dataclass(frozen=True)
class ClusterRecords:
    fake: FakeConfigMaps
    environment: dict[str, str]  # of a process that reads them
    records: ConfigMapRecords
    folder: Path

    @property
    def state(self) -> ModelState:
        return open_state(self.folder / "state", "shop", records=self.records)


def cluster_records(folder: Path, stack: ExitStack) -> ClusterRecords:
    """Start slots and API, which `stack` ends, and promote a first release."""
    fake = FakeConfigMaps()
    slots = {colour: Slot(Mood(colour.value), free_port(), free_port()) for colour in Colour}
    (folder / "state" / "shop").mkdir(parents=True)
    (folder / "state" / "shop" / "slots.json").write_text(_slots_record(slots))
    for slot in slots.values():
        slot.start()
        stack.callback(slot.stop)
    url = stack.enter_context(serving(fake))
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig(folder / "kubeconfig", url)),
        "HEADRACE_ROLLOUT_STATE": "configmap://prod",
        "HEADRACE_MODELS": "shop",
    }
    records = ConfigMapRecords(api=KubeApi(server_at(url)), namespace="prod")
    made = ClusterRecords(fake=fake, environment=environment, records=records, folder=folder)
    made.state.reserve_slot("first")
    made.state.promote("first")
    return made
