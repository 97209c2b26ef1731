"""The faults of the matrix: what is done to the worker, the pod, the GPU, the API, or by people."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil

from tests.cluster.faulty_proxy import ALWAYS, ONCE, Exchange, Hold, Rule, answering, away, pod_name

if TYPE_CHECKING:
    from tests.cluster.airflow_parts import TaskRun
    from tests.cluster.cells import Cell
    from tests.cluster.kubernetes_world import World

REAPER_GRACE_SECONDS = 15
Drive = Callable[["World", "Cell", "TaskRun"], None]
Prepare = Callable[["World", "Cell"], None]


def undisturbed(world: World, cell: Cell, run: TaskRun) -> None:
    """Nothing happens."""


def unprepared(world: World, cell: Cell) -> None:
    """Nothing has to be there first."""


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
