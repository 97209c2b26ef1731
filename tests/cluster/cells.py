"""The cells of the fault matrix: which fault, at which point, and what must hold afterwards."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
from headrace_airflow.compute_profiles import ProfileName

from tests.cluster.faulty_proxy import Exchange, Hold, Rule, answering, away, pod_name

if TYPE_CHECKING:
    from tests.cluster.airflow_parts import TaskRun
    from tests.cluster.kubernetes_world import World


@dataclass(frozen=True)
class _ByMode:
    sync: Any
    deferrable: Any


REAPER_GRACE_SECONDS = 15
STEPS = 8  # half a second each
Drive = Callable[["World", "Cell", "TaskRun"], None]
Prepare = Callable[["World", "Cell"], None]
ONCE, ALWAYS = 1, 10**9


def _of_mode(value: Any, deferrable: bool) -> Any:
    if not isinstance(value, _ByMode):
        return value
    return value.deferrable if deferrable else value.sync


def undisturbed(world: World, cell: Cell, run: TaskRun) -> None:
    """Nothing happens."""


def unprepared(world: World, cell: Cell) -> None:
    """Nothing has to be there first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One fault in one mode, and the end it must come to."""

    fault: str  # as the table names it
    name: str  # of the DAG, the task and the pods
    deferrable: bool
    prepare: Prepare = unprepared  # before the run starts
    drive: Drive = undisturbed  # once it has started
    settings: Mapping[str, Any] = field(default_factory=dict)
    operator: Mapping[str, Any] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    profile: ProfileName = ProfileName.CPU
    cpu_cores: float = 0.1
    memory_gib: float = 0.125
    ranks: int = 1
    queue_seconds: float | None = None  # None: as the world has it
    retries: int = 1
    state: str = "success"
    tries: tuple[int, ...] = (1,)  # the numbers that the last try may have
    starts: tuple[int, ...] = (1,)  # of pods that began to work
    says: str = ""  # part of the task's log

    @property
    def steps(self) -> list[int]:
        """The steps of the whole work."""
        return list(range(self.settings.get("steps", STEPS)))

    @property
    def seals(self) -> int:
        return 1 if self.state == "success" else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "deferrable": self.deferrable,
            "settings": {"cell": self.name, "steps": STEPS, **self.settings},
            "operator": dict(self.operator),
            "node_selector": dict(self.node_selector),
            "profile": self.profile.value,
            "cpu_cores": self.cpu_cores,
            "memory_gib": self.memory_gib,
            "ranks": self.ranks,
            "queue_seconds": self.queue_seconds,
            "retries": self.retries,
        }


# --- what happens to the worker ----------------------------------------------------------------


def kill_worker(world: World, run: TaskRun, how: signal.Signals) -> None:
    """End the worker that has the task: its supervisor and, on SIGKILL, the task with it."""
    child = psutil.Process(int(run.task["pid"]))
    supervisor = child.parent()
    assert supervisor is not None
    if how is signal.SIGTERM:
        os.kill(supervisor.pid, how)
        return
    for process in (supervisor, child):
        os.kill(process.pid, how)


def killed_before_create(how: signal.Signals) -> Drive:
    def drive(world: World, cell: Cell, run: TaskRun) -> None:
        hold = Hold()

        def stop(exchange: Exchange) -> Any:
            hold(exchange)
            return 0, None, {}  # it never arrives

        world.proxy.rule(Rule(cell.name, ("create",), before=stop, times=ONCE))
        _await(hold.reached)
        kill_worker(world, run, how)
        time.sleep(1)
        hold.released.set()

    return drive


def killed_after_create(how: signal.Signals) -> Drive:
    def drive(world: World, cell: Cell, run: TaskRun) -> None:
        hold = Hold()
        world.proxy.rule(Rule(cell.name, ("create",), after=hold, times=ONCE))
        _await(hold.reached)
        kill_worker(world, run, how)
        time.sleep(1)
        hold.released.set()

    return drive


def killed_while_running(how: signal.Signals) -> Drive:
    def drive(world: World, cell: Cell, run: TaskRun) -> None:
        world.await_event(cell.name, "step")
        kill_worker(world, run, how)

    return drive


def killed_after_exit(how: signal.Signals) -> Drive:
    """Sync: before the end is read. Deferrable: when the resumed task has read it."""

    def drive(world: World, cell: Cell, run: TaskRun) -> None:
        hold = Hold()
        if cell.deferrable:
            world.proxy.rule(Rule(cell.name, ("delete",), before=hold, times=ONCE))
        else:
            once = _first_end(hold)
            world.proxy.rule(Rule(cell.name, ("read",), after=once, times=ALWAYS))
        _await(hold.reached)
        kill_worker(world, run, how)
        time.sleep(1)
        hold.released.set()

    return drive


def killed_on_the_last_try(world: World, cell: Cell, run: TaskRun) -> None:
    """Nobody is left to act: Airflow fails the task, its pod goes on, the reaper removes it."""
    world.await_event(cell.name, "step")
    kill_worker(world, run, signal.SIGKILL)
    run.wait(90)
    assert world.pods(cell.name), "the pod went before the reaper came"
    time.sleep(REAPER_GRACE_SECONDS)
    said = world.reap()
    assert "its task is failed" in said, said


def triggerer_killed(world: World, cell: Cell, run: TaskRun) -> None:
    world.await_event(cell.name, "step")
    world.airflow.restart_killed("triggerer")


# --- what happens to the pod -------------------------------------------------------------------


def deleted_before_re_entry(world: World, cell: Cell) -> None:
    """Sync: gone before its end was seen. Deferrable: gone after the trigger saw it."""

    def remove(exchange: Exchange) -> None:
        world.remove_pod(pod_name(exchange))
        if not cell.deferrable:
            exchange.status, exchange.answer = world.read_raw(pod_name(exchange))

    world.proxy.rule(Rule(cell.name, ("read",), after=_first_end(remove), times=ALWAYS))


def same_name_another_uid(world: World, cell: Cell, run: TaskRun) -> None:
    world.await_event(cell.name, "step")
    hold = Hold()
    rule = world.proxy.rule(Rule(cell.name, ("read",), before=hold, times=ALWAYS))
    (pod,) = world.pods(cell.name)
    world.remove_pod(pod.metadata.name)
    world.strangers[cell.name] = world.create_stranger(pod.metadata.name)
    rule.times = 0
    hold.released.set()


def evicted(world: World, cell: Cell, run: TaskRun) -> None:
    world.await_event(cell.name, "step")
    (pod,) = world.pods(cell.name)
    world.evict(pod.metadata.name)


def node_comes_late(world: World, cell: Cell, run: TaskRun) -> None:
    _until(lambda: world.pods(cell.name), 60)
    time.sleep(world.start_seconds + 4)
    world.label_node({f"headrace/{cell.name.replace('_', '-')}": "here"})


# --- what happens to the GPU -------------------------------------------------------------------


def gpu_is_taken(world: World, cell: Cell) -> None:
    world.gpu.take()


def gpu_comes_free_late(world: World, cell: Cell, run: TaskRun) -> None:
    """The wait is longer than the start timeout: it must count as time in the queue."""
    _until(lambda: world.pods(cell.name), 60)
    time.sleep(world.start_seconds + 4)
    assert not world.events(cell.name), "the pod began to work while the GPU was taken"
    world.gpu.free()


def no_pool_holds_it(world: World, cell: Cell, run: TaskRun) -> None:
    made = world.proxy.rule(Rule(cell.name, ("create",), times=ALWAYS))
    run.wait(90)
    assert made.seen == 0, "a pod was made that no node can ever hold"


def preempted(world: World, cell: Cell, run: TaskRun) -> None:
    """A stage of higher priority asks for the one GPU; the scheduler takes it from the spot stage."""
    world.await_event(cell.name, "step")
    rival = world.run(rival_of(cell.name))
    found = rival.wait(120)
    assert (found["state"], found["try_number"]) == ("success", 1), rival.log()[-2000:]
    journal = world.events(rival_of(cell.name))
    assert [one["event"] for one in journal].count("start") == 1, journal


def rival_of(name: str) -> str:
    return f"rival_of_{name}"


# --- what happens to the API -------------------------------------------------------------------


def api_answers_409(world: World, cell: Cell) -> None:
    world.proxy.rule(Rule(cell.name, ("create",), before=answering(409, "AlreadyExists")))
    world.proxy.rule(Rule(cell.name, ("read",), before=answering(409, "Conflict"), times=3))


def api_answers_429(world: World, cell: Cell) -> None:
    busy = answering(429, "TooManyRequests", Retry_After="1")
    world.proxy.rule(Rule(cell.name, before=busy, times=6))


def api_answers_500(world: World, cell: Cell) -> None:
    world.proxy.rule(Rule(cell.name, before=answering(500), times=8))


def api_away_20_s(world: World, cell: Cell, run: TaskRun) -> None:
    world.await_event(cell.name, "start")
    world.proxy.rule(Rule(cell.name, before=away(20), times=ALWAYS))


# --- what people do ----------------------------------------------------------------------------


def marked_failed(world: World, cell: Cell, run: TaskRun) -> None:
    world.await_event(cell.name, "step")
    run.mark_failed()


def cleared(world: World, cell: Cell, run: TaskRun) -> None:
    world.await_event(cell.name, "step")
    (pod,) = world.pods(cell.name)
    run.clear()
    _until(lambda: pod.metadata.uid not in world.uids(cell.name), 60)
    world.await_event(cell.name, "start", count=2)


def _first_end(act: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
    seen: list[Exchange] = []

    def look(exchange: Exchange) -> None:
        if exchange.shows_the_end and not seen:
            seen.append(exchange)
            act(exchange)

    return look


def _await(event: Any) -> None:
    if not event.wait(120):
        raise AssertionError("waited 120 s in vain for a request of the task")


def _until(look: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for the cluster")
        time.sleep(0.3)


def _cells() -> tuple[Cell, ...]:
    made: list[Cell] = []

    def add(fault: str, name: str, *modes: bool, **more: Any) -> None:
        for deferrable in modes or (False, True):
            full = f"{name}_{'d' if deferrable else 's'}"
            chosen = {key: _of_mode(value, deferrable) for key, value in more.items()}
            made.append(Cell(fault=fault, name=full, deferrable=deferrable, **chosen))

    add("no fault", "plain")
    for how, short in ((signal.SIGTERM, "term"), (signal.SIGKILL, "kill")):
        # A worker's shutdown is no try of the user's; a lost worker is one.
        tries = (1,) if how is signal.SIGTERM else (2,)
        worker = f"worker {how.name}"
        add(
            f"{worker} before create",
            f"{short}_before",
            drive=killed_before_create(how),
            tries=tries,
        )
        add(
            f"{worker} after create, before persist",
            f"{short}_after",
            drive=killed_after_create(how),
            tries=tries,
        )
        add(
            f"{worker} while running",
            f"{short}_run",
            False,
            drive=killed_while_running(how),
            tries=tries,
        )
        add(
            f"{worker} after exit",
            f"{short}_exit",
            drive=killed_after_exit(how),
            tries=tries,
        )
    add(
        "worker SIGKILL on the last try, then the reaper",
        "reaped",
        False,
        drive=killed_on_the_last_try,
        settings={"steps": 400},
        retries=0,
        state="failed",
    )
    add("triggerer killed", "triggerer", True, drive=triggerer_killed)
    add(
        "pod deleted before re-entry",
        "deleted",
        prepare=deleted_before_re_entry,
        starts=_ByMode((2,), (1,)),
    )
    add("same name, another uid", "stranger", drive=same_name_another_uid, starts=(2,))
    add("pod evicted", "evicted", drive=evicted, starts=(2,))
    for deferrable in (False, True):
        mode = "d" if deferrable else "s"
        made.append(
            Cell(
                fault="node later than the start timeout",
                name=f"late_node_{mode}",
                deferrable=deferrable,
                drive=node_comes_late,
                node_selector={f"headrace/late-node-{mode}": "here"},
            )
        )
    on_gpu: dict[str, Any] = {"profile": ProfileName.GPU_TRAIN}
    add(
        "GPU taken for longer than the start timeout",
        "gpu_taken",
        prepare=gpu_is_taken,
        drive=gpu_comes_free_late,
        says=_ByMode("Insufficient nvidia.com/gpu", ""),
        **on_gpu,
    )
    add(
        "GPU taken for longer than the queue timeout",
        "gpu_queue",
        prepare=gpu_is_taken,
        queue_seconds=8.0,
        state="failed",
        retries=0,
        starts=(0,),
        says="it had no node for",
        **on_gpu,
    )
    add(
        "no pool can ever hold it",
        "nowhere",
        drive=no_pool_holds_it,
        cpu_cores=15,
        state="failed",
        starts=(0,),
        says="expected a node that can hold the pod when empty, found none",
        **on_gpu,
    )
    add(
        "preempted on its spot GPU by a stage of higher priority",
        "preempted",
        drive=preempted,
        settings={"steps": 60},
        starts=(2,),
        says="was disrupted (1 of 3)",
        profile=ProfileName.SPOT_GPU,
    )
    add(
        "out of memory",
        "oom",
        settings={"behaviour": "oom_once"},
        tries=(2,),
        starts=(2,),
        says="killed for memory at its limit of 128Mi",
    )
    add("API answers 409", "api409", prepare=api_answers_409)
    add("API answers 429", "api429", prepare=api_answers_429)
    add("API answers 500", "api500", prepare=api_answers_500)
    add("API away for 20 s", "away", drive=api_away_20_s)
    add("result of 5 MB", "large", settings={"payload_bytes": 5 * 1024 * 1024})
    long = {"steps": 30}  # the triggerer needs some seconds to notice
    add("marked failed in the UI", "marked", drive=marked_failed, settings=long, state="failed")
    add(
        "cleared in the UI while running",
        "cleared",
        drive=cleared,
        settings=long,
        tries=(2,),
        starts=(2,),
    )
    add(
        "image that cannot be had",
        "image",
        operator={"image": "localhost/headrace/none:1"},
        state="failed",
        retries=0,
        starts=(0,),
        says="did not start on its node",
    )
    add(
        "ends well without sealed work",
        "silent",
        settings={"behaviour": "silent"},
        state="failed",
        retries=0,
        says="is not green",
    )
    return tuple(made)


CELLS: tuple[Cell, ...] = _cells()
# They take the GPU of others, and have no row of their own.
RIVALS: tuple[Cell, ...] = tuple(
    Cell(
        fault="",
        name=rival_of(cell.name),
        deferrable=cell.deferrable,
        settings={"steps": 2},
        profile=ProfileName.GPU_TRAIN,
    )
    for cell in CELLS
    if cell.drive is preempted
)


def cells_json(cells: tuple[Cell, ...]) -> str:
    """Return the cells as the DAG file reads them."""
    return json.dumps([cell.to_json() for cell in cells])
