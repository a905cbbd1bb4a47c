"""The faults of the chaos soak: their effects on the fleet, and their relative frequencies."""

import os
import random
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
import redis

from benchmarks.chaos.fleet import ECHO, TINY, ChaosFleet, Node, Run
from common.broker.app import TASK_NAME, ring
from common.broker.queues import queue_name
from common.errors import ServiceUnreachable

_SETTLE_S = 0.05  # the last commands of a killed process reach Redis within this time


@dataclass(frozen=True)
class Draw:
    """One fault drawn from the seed: its kind and the pause before it.

    ``pick`` selects the victim, and ``amount`` sets the strength. Both are from 0 to 1.
    """

    kind: str
    pause_s: float
    pick: float
    amount: float


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    ``strike`` returns whether the state of the fleet permitted the fault. ``weight`` is its relative frequency.
    """

    strike: Callable[[ChaosFleet, Draw], bool]
    weight: int
    is_kill: bool = False


def draw_faults(seed: int, every_s: float) -> Iterator[Draw]:
    """Yield an unlimited sequence of faults, ``every_s`` seconds apart on average. The same seed gives the same sequence."""
    dice = random.Random(seed)
    kinds, weights = list(FAULTS), [fault.weight for fault in FAULTS.values()]
    while True:
        (kind,) = dice.choices(kinds, weights)
        yield Draw(kind, dice.uniform(0.3, 1.7) * every_s, dice.random(), dice.random())


# Processes


def kill_worker(fleet: ChaosFleet, draw: Draw) -> bool:
    """Send SIGKILL to a worker. Its launcher restarts it."""
    return _hit(fleet, draw, lambda _, worker: worker.kill())


def kill_node(fleet: ChaosFleet, draw: Draw) -> bool:
    """Send SIGKILL to a launcher, its worker and the engine's child together, as if the machine failed."""

    def kill(node: Node, worker: psutil.Process) -> None:
        node.launcher.kill()
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        node.launcher.wait()

    return _hit(fleet, draw, kill)


def kill_launcher(fleet: ChaosFleet, draw: Draw) -> bool:
    """Send SIGKILL only to a launcher. Its worker drains, and a new launcher is started."""

    def kill(node: Node, worker: psutil.Process) -> None:
        del worker
        node.launcher.kill()
        node.launcher.wait()

    return _hit(fleet, draw, kill, is_dead=None)


def kill_engine(fleet: ChaosFleet, draw: Draw) -> bool:
    """Send SIGKILL to the engine's child process. The worker detects that its engine is dead and restarts."""

    def kill(node: Node, worker: psutil.Process) -> None:
        del node
        for child in worker.children():
            child.kill()

    return _hit(fleet, draw, kill, is_dead=False)


def stop_worker(fleet: ChaosFleet, draw: Draw) -> bool:
    """Send SIGSTOP to a worker, and SIGCONT after 2.1 to 2.6 lease durations. By then, other workers hold its chunks.

    With the default lease the pause is longer than the limit of a takeover, so that every slow takeover is detected.
    """

    def stop(node: Node, worker: psutil.Process) -> None:
        worker.suspend()

        def wake() -> None:
            with suppress(psutil.NoSuchProcess):
                worker.resume()
            fleet.takeovers.note_waking(node.worker_name)
            node.struck = 0

        fleet.later(fleet.settings.lease_s * (2.1 + draw.amount / 2), wake)

    return _hit(fleet, draw, stop, is_dead=False)


def terminate_worker(fleet: ChaosFleet, draw: Draw) -> bool:
    """Send SIGTERM to a worker. It drains, and its launcher restarts it."""
    return _hit(fleet, draw, lambda _, worker: worker.terminate(), is_dead=None)


def kill_producer(fleet: ChaosFleet, draw: Draw) -> bool:
    """Enqueue a run again and send SIGKILL to the producer at a random time, unless it has exited before."""
    run = _pick_run(fleet, draw)
    if run is None:
        return False
    process = fleet.produce(["enqueue", str(run.spec_path)]).process
    fleet.doomed += 1

    def kill() -> None:
        if process.poll() is None:
            process.kill()
            fleet.doomed -= 1

    fleet.later(2 * draw.amount, kill)
    return True


# Redis


def restart_redis(fleet: ChaosFleet, draw: Draw) -> bool:
    return _take_redis_away(fleet, draw, fleet.server.stop)


def kill_redis(fleet: ChaosFleet, draw: Draw) -> bool:
    return _take_redis_away(fleet, draw, fleet.server.kill)


def cut_connections(fleet: ChaosFleet, draw: Draw) -> bool:
    del draw
    return _ask_redis(fleet, lambda: fleet.ledger.client.client_kill_filter(_type="normal"))


# Messages


def lose_messages(fleet: ChaosFleet, draw: Draw) -> bool:
    """Delete a queue, so that its messages are never delivered."""
    return _ask_redis(fleet, lambda: fleet.ledger.client.delete(queue_name(_pick_model(draw))))


def ring_again(fleet: ChaosFleet, draw: Draw) -> bool:
    """Send a message for every chunk of a run, so that messages are delivered twice."""
    run = _pick_run(fleet, draw)
    if run is None or run.view is None:
        return False
    chunks = range(run.view.chunks)
    return _ask_redis(fleet, lambda: ring(fleet.app, run.model, run.run_id, chunks))


def send_bogus(fleet: ChaosFleet, draw: Draw) -> bool:
    """Send messages with an unknown chunk, with an unknown task, or with an unreadable body."""
    run, queue = _pick_run(fleet, draw), queue_name(_pick_model(draw))
    if run is None:
        return False

    def send() -> None:
        for ids in ((run.run_id, 10**9), (run.run_id, -1), (run.run_id, "first"), ("../..", 0), (None, None), ()):
            fleet.app.send_task(TASK_NAME, args=ids, queue=queue)
        fleet.app.send_task("fleet.no_such_task", args=(run.run_id, 0), queue=queue)
        with fleet.app.producer_pool.acquire(block=True) as producer:
            for content_type in ("application/json", "application/x-python-serialize"):
                producer.publish(secrets.token_bytes(64), routing_key=queue, content_type=content_type, content_encoding="binary")

    return _ask_redis(fleet, send)


# Producers


def enqueue_again(fleet: ChaosFleet, draw: Draw) -> bool:
    run = _pick_run(fleet, draw)
    if run:
        fleet.produce(["enqueue", str(run.spec_path)])
    return run is not None


def rebuild_ledger(fleet: ChaosFleet, draw: Draw) -> bool:
    """Delete a run from Redis, with its journals and leases, and rebuild it from the store (``resume --rebuild``)."""
    run = _pick_run(fleet, draw)
    if run:
        fleet.rebuild(run)
    return run is not None


FAULTS = {
    "worker killed": Fault(kill_worker, 20, is_kill=True),
    "node killed": Fault(kill_node, 20, is_kill=True),
    "launcher killed": Fault(kill_launcher, 6, is_kill=True),
    "engine's child killed": Fault(kill_engine, 12, is_kill=True),
    "producer killed": Fault(kill_producer, 3, is_kill=True),
    "Redis killed": Fault(kill_redis, 4, is_kill=True),
    "Redis restarted": Fault(restart_redis, 3),
    "worker stopped, then resumed": Fault(stop_worker, 8),
    "worker drained": Fault(terminate_worker, 5),
    "connections cut": Fault(cut_connections, 5),
    "messages lost": Fault(lose_messages, 4),
    "messages duplicated": Fault(ring_again, 4),
    "malformed messages": Fault(send_bogus, 3),
    "run enqueued again": Fault(enqueue_again, 3),
    "ledger rebuilt": Fault(rebuild_ledger, 2),
}


def _hit(fleet: ChaosFleet, draw: Draw, strike: Callable[[Node, psutil.Process], Any], *, is_dead: bool | None = True) -> bool:
    """Apply ``strike`` to a ready worker, if at least one other echo worker is ready.

    ``is_dead`` is true if the worker can no longer finish its chunks. It is ``None`` if the worker itself must finish its chunks
    or give them back.
    """
    ready = {model: fleet.find_ready(model) for model in (ECHO, TINY)}
    targets = (ready[ECHO] if len(ready[ECHO]) > 1 else []) + ready[TINY]
    if not targets:
        return False
    node = targets[int(draw.pick * len(targets))]
    worker = node.find_worker()
    if worker is None:
        return False
    node.struck = worker.pid
    since = time.monotonic()
    with suppress(psutil.NoSuchProcess):
        strike(node, worker)
    if is_dead is not None:
        time.sleep(_SETTLE_S)
        fleet.look()
        fleet.takeovers.note_loss(node.worker_name, since, is_dead=is_dead, alone=node.model == TINY)
    return True


def _pick_run(fleet: ChaosFleet, draw: Draw) -> Run | None:
    runs = fleet.open_runs if fleet.redis_is_up else []
    return runs[int(draw.pick * len(runs))] if runs else None


def _pick_model(draw: Draw) -> str:
    return ECHO if draw.amount < 0.8 else TINY


def _take_redis_away(fleet: ChaosFleet, draw: Draw, take: Callable[[], None]) -> bool:
    if not fleet.redis_is_up:
        return False
    fleet.redis_is_up = False
    take()

    def bring_back() -> None:
        fleet.server.start(fleet.server.port)
        fleet.redis_is_up = True

    fleet.later(3 * draw.amount, bring_back)
    return True


def _ask_redis(fleet: ChaosFleet, ask: Callable[[], Any]) -> bool:
    """Call ``ask``, which needs Redis, and return whether Redis was available."""
    if not fleet.redis_is_up:
        return False
    try:
        ask()
    except (redis.RedisError, ServiceUnreachable, fleet.app.connection_for_write().connection_errors):
        return False
    return True
