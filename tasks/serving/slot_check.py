"""A version in a slot: wait until it is loaded, ask it every golden request by both protocols."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tasks.contracts.errors import BadRequestError, HeadraceError, StoreUnavailableError
from tasks.contracts.served_signatures import SERVING_DEFAULT
from tasks.contracts.slot_hosts import slots_text
from tasks.contracts.stage_io import SayProgress
from tasks.serving.client import ServingClient, flat_values, predict_request
from tasks.serving.golden_answers import GoldenRequest, Ranked
from tasks.serving.infra_check import InfraCheck, Latency, check_answers, measure_side_by_side
from tasks.serving.slot_folder import Slot, parse_slots, read_slots
from tasks.serving.version_states import State, VersionId

SLOTS_SECONDS = 120.0  # until the stack has started servers for a model that is new to it
LOAD_SECONDS = 180.0
MEASURED_REQUESTS = 300


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A version in a slot."""

    slot: Slot
    version: VersionId


def slots_of(state_dir: Path, model: str, slot_host: str | None) -> dict[str, Slot]:
    """Return the slots of a model: by the names of their Services, else as the stack wrote them."""
    if slot_host is None:
        return wait_for_slots(state_dir / model / "slots.json")
    return parse_slots(slots_text(slot_host, state_dir, model), slot_host)


def wait_for_slots(path: Path, seconds: float = SLOTS_SECONDS) -> dict[str, Slot]:
    """Return the slots of a model; the stack writes them when it sees the model's folder."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            message = (
                f"{path}: expected the model's slots, found no such file after {seconds:.0f} s; "
                "is the stack running?"
            )
            raise StoreUnavailableError(message)
        time.sleep(0.2)
    return read_slots(path)


def slot_of_colour(slots: Mapping[str, Slot], colour: str) -> Slot:
    """Return the slot of a colour; one that the model does not have is refused."""
    if colour not in slots:
        message = f"slots: expected the colour {colour}, found {sorted(slots)}"
        raise BadRequestError(message)
    return slots[colour]


def wait_until_loaded(staged: Staged, seconds: float) -> None:
    """Wait for AVAILABLE; who asked withdraws a version that does not load.

    A slot that is found by a name is ready when each of its replicas is.
    """
    deadline = time.monotonic() + seconds
    row = None
    for address in _replicas(staged.slot):
        with ServingClient(address) as client:
            row = client.wait_available(staged.version, max(1.0, deadline - time.monotonic()))
        if row is None or row.state is not State.AVAILABLE:
            break
    else:
        return
    where = f"{staged.slot.colour} slot at {staged.slot.grpc_address}"
    if row is not None and row.error is not None:
        message = f"could not be staged: the {where} cannot load {staged.version}: {row.error}"
        raise BadRequestError(message)
    found = "no answer" if row is None else row.state.name
    message = (
        f"could not be staged: expected {staged.version} AVAILABLE in the {where} within "
        f"{seconds:.0f} s, found {found}; see the slot's log"
    )
    raise HeadraceError(message)


def _replicas(slot: Slot) -> list[str]:
    """Return host:port of every replica that the slot's name stands for now."""
    try:
        found = socket.getaddrinfo(slot.host, slot.grpc, type=socket.SOCK_STREAM)
    except OSError:  # no replica is up: the wait for the name says so
        return [slot.grpc_address]
    hosts = {str(address[0]) for *_, address in found}
    return [
        f"[{host}]:{slot.grpc}" if ":" in host else f"{host}:{slot.grpc}" for host in sorted(hosts)
    ]


# The infra check: the same requests through both protocols, beside the stable slot.


class RestClient(Protocol):
    """What is asked of a client of one server's REST."""

    def predict_bytes(self, model: str, body: bytes, *, version: int | None = None) -> bytes:
        """Send a body, return the answer."""
        ...


OpenRest = Callable[[str], AbstractContextManager[RestClient]]  # from a base URL


def check_slot(
    staged: Staged,
    stable: Staged | None,
    golden: Sequence[GoldenRequest],
    progress: SayProgress,
    open_rest: OpenRest,
) -> InfraCheck:
    """Ask every golden request by gRPC and by REST, then measure beside the stable slot."""
    with ExitStack() as open_clients:
        speakers = {
            name: _Speakers.connect(place, open_clients, open_rest)
            for name, place in (("candidate", staged), ("stable", stable))
            if place is not None
        }
        candidate = speakers["candidate"]
        progress(f"asking {len(golden)} golden requests by gRPC", 0.2)
        by_grpc = check_answers(golden, candidate.ask_grpc)
        progress(f"asking {len(golden)} golden requests by REST", 0.4)
        by_rest = check_answers(golden, candidate.ask_rest)
        progress("measuring beside the stable slot" if stable else "measuring", 0.6)
        # Stable may not read types: both are measured by what both can be asked.
        plain = [request for request in golden if request.signature == SERVING_DEFAULT]
        measured = plain[:MEASURED_REQUESTS]
        latency: dict[str, Mapping[str, Latency]] = {"grpc": {}, "rest": {}}
        if measured and not by_grpc.failed:
            senders = {name: speaker.send_grpc for name, speaker in speakers.items()}
            latency["grpc"] = measure_side_by_side(measured, senders)
        if measured and not by_rest.failed:
            senders = {name: speaker.send_rest for name, speaker in speakers.items()}
            latency["rest"] = measure_side_by_side(measured, senders)
    progress("checked", 1.0)
    return InfraCheck(grpc=by_grpc, rest=by_rest, latency=latency)


@dataclass(frozen=True, kw_only=True)
class _Speakers:
    """Both clients of one staged version; versions are explicit, never the latest."""

    version: VersionId
    grpc: ServingClient
    rest: RestClient

    @classmethod
    def connect(cls, place: Staged, open_clients: ExitStack, open_rest: OpenRest) -> _Speakers:
        return cls(
            version=place.version,
            grpc=open_clients.enter_context(ServingClient(place.slot.grpc_address)),
            rest=open_clients.enter_context(open_rest(place.slot.rest_url)),
        )

    def _grpc_bytes(self, request: GoldenRequest) -> bytes:
        name, version = self.version.name, self.version.version
        # The default entry goes without its name, as most clients send it.
        signature = "" if request.signature == SERVING_DEFAULT else request.signature
        return predict_request(name, request.inputs, version=version, signature=signature)

    def send_grpc(self, request: GoldenRequest) -> object:
        return self.grpc.predict_bytes(self._grpc_bytes(request))

    def ask_grpc(self, request: GoldenRequest) -> Ranked:
        answer = self.grpc.predict(self._grpc_bytes(request))
        if answer.model_spec.version.value != self.version.version:
            message = f"expected {self.version}, answered by {answer.model_spec.version.value}"
            raise HeadraceError(message)
        outputs = answer.outputs
        return Ranked(
            items=tuple(flat_values(outputs[request.ranked])),
            scores=tuple(flat_values(outputs["scores"])),
            next_types=tuple(flat_values(outputs["next_types"])) if "next_types" in outputs else (),
        )

    def send_rest(self, request: GoldenRequest) -> object:
        body = _rest_bytes(request)
        return self.rest.predict_bytes(self.version.name, body, version=self.version.version)

    def ask_rest(self, request: GoldenRequest) -> Ranked:
        body = _rest_bytes(request)
        name, version = self.version.name, self.version.version
        outputs: Any = json.loads(self.rest.predict_bytes(name, body, version=version))["outputs"]
        return Ranked(
            items=tuple(outputs[request.ranked][0]),
            scores=tuple(map(_float32, outputs["scores"][0])),
            next_types=tuple(map(_float32, outputs["next_types"][0]))
            if "next_types" in outputs
            else (),
        )


def _rest_bytes(request: GoldenRequest) -> bytes:
    body: dict[str, Any] = {"inputs": request.inputs}
    if request.signature != SERVING_DEFAULT:
        body["signature_name"] = request.signature
    return json.dumps(body).encode()


def _float32(number: float) -> float:
    """Return what the server wrote: nine digits name one float32, not one float64."""
    value: float = struct.unpack("<f", struct.pack("<f", number))[0]
    return value
