"""An echo engine whose worker sends itself SIGKILL or SIGSTOP at a named point of a chunk's execution, once per fleet."""

import os
import signal
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

from common.ledger.ledger import Ledger
from common.records import Chunk, Lease
from common.spec.models import ModelProfile
from tests.support.engines.dying_engine import RecordingEngine, read_options
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until
from workers.engines.base import Generation, Request
from workers.execution import chunk


class Point(NamedTuple):
    """A function of ``owner`` at which the process gets the signal: before a call, or after a call with a true result.

    If ``thread`` is set, only calls in threads whose names begin with this text count.
    """

    owner: Any
    function: str
    before: bool
    thread: str = ""


POINTS = {
    "after_acquire": Point(Ledger, "acquire", before=False),
    "before_journal": Point(Ledger, "journal", before=True),
    "before_part": Point(chunk, "write_part", before=True),
    "between_part_and_commit": Point(Ledger, "commit", before=True),
    "giving_back": Point(Ledger, "release", before=True),
    # After the janitor has found expired leases, and after a separate thread has acquired one of them.
    "after_expiry_found": Point(Ledger, "expire_leases", before=False),
    "after_takeover": Point(Ledger, "acquire", before=False, thread="takeover"),
}


class Signalled(NamedTuple):
    """The process that signalled itself, and its work at that time.

    ``at`` is the number of a chunk, the id of a request, or an empty text.
    """

    pid: int
    at: str


class SignalledEngine(RecordingEngine):
    """An engine that signals its own process at ``point``, and skips the first ``after`` passes of this point.

    ``point`` is a name in ``POINTS``, ``loading``, ``asking`` or ``between_journals``.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options = read_options(profile)
        self._point: str = options.pop("point")
        self._after: int = options.pop("after")
        self._signal = signal.Signals[options.pop("signal")]
        self._signalled = Path(options.pop("signalled"))
        self._lock = threading.Lock()
        self._journaled: set[str] = set()
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def start(self) -> None:
        if self._point == "loading":
            self._pass()
        await super().start()
        if self._point == "between_journals":
            Ledger.journal = self._signal_between(Ledger.journal)  # type: ignore[method-assign]  # the fault is injected here
        elif point := POINTS.get(self._point):
            setattr(point.owner, point.function, self._wrap(point, getattr(point.owner, point.function)))

    async def generate(self, request: Request) -> Generation:
        if self._point == "asking":
            self._pass(request)
        return await super().generate(request)

    def _wrap(self, point: Point, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapped(*given: Any, **named: Any) -> Any:
            is_here = threading.current_thread().name.startswith(point.thread)
            if is_here and point.before:
                self._pass(*given)
            result = function(*given, **named)
            if is_here and not point.before and result:
                self._pass(*given, result)
            return result

        return wrapped

    def _signal_between(self, journal: Callable[..., None]) -> Callable[..., None]:
        """Send the signal when a chunk journals outcomes for the second time."""

        def wrapped(ledger: Ledger, lease: Lease, outcomes: Any) -> None:
            if lease.token in self._journaled:
                self._pass(lease)
            journal(ledger, lease, outcomes)
            self._journaled.add(lease.token)

        return wrapped

    def _pass(self, *given: Any) -> None:
        with self._lock:
            self._after -= 1
            if self._after >= 0:
                return
            try:
                with self._signalled.open("x") as claim:  # two workers may be at the point at the same time
                    claim.write(f"{os.getpid()} {_name(given)}\n")
            except FileExistsError:
                return
            # Send it to this thread: a signal to the process may reach another thread first, and this thread would pass the point.
            signal.pthread_kill(threading.get_ident(), self._signal)


def _name(given: tuple[Any, ...]) -> str:
    for one in given:
        if isinstance(one, Lease):
            return str(one.chunk)
        if isinstance(one, Chunk):
            return str(one.number)
        if isinstance(one, Request):
            return one.request_id
    return ""


def write_signalled_profile(fleet: Fleet, name: str, point: str, sent: signal.Signals, *, after: int = 0, **options: Any) -> None:
    files = {"asked": str(fleet.folder / "asked"), "signalled": str(fleet.folder / "signalled")}
    options = {**files, "point": point, "signal": sent.name, "after": after, **options}
    fleet.write_changing_profile(name, "tests.support.engines.signalled_engine:SignalledEngine", options)


def wait_for_signalled(fleet: Fleet) -> Signalled:
    path = fleet.folder / "signalled"
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), "a worker to send itself a signal")
    pid, _, at = path.read_text().strip().partition(" ")
    return Signalled(int(pid), at)
