"""Heartbeats of many ranks in one process, at a real store in a process of its own.

One loop calls the beats of all ranks, each when its time has come: hundreds of threads would wait
for the interpreter, and miss their beats.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch.distributed as dist

from vaetrain.engines.heartbeat import SEARCH_BEATS, Heartbeat
from vaetrain.engines.launching.rank_variables import Ranks

NOT_FOUND = "a collective failed, and no dead rank was found"
# By default, a thread that has waited for the store waits up to 5 ms for the interpreter.
SWITCH_SECONDS = 1e-4
CONNECTING = 16  # ranks at the same time; a name server may not answer more

SERVER = """
import sys
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
sys.stdin.read()
"""


class Store:
    """Torch's store in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        # As clock_getcpuclockid(3) does. The times in /proc/PID/stat have ticks of 10 ms, in which
        # the store of a few ranks does all its work unseen.
        self._clock = (~process.pid << 3) | 2

    def connect(self) -> dist.Store:
        """Return a connection to the store."""
        host, _, port = self.address.rpartition(":")
        return dist.TCPStore(host, int(port), is_master=False)

    def cpu_seconds(self) -> float:
        """Return the CPU time of the store's process so far."""
        return time.clock_gettime(self._clock)


@contextlib.contextmanager
def running_store() -> Iterator[Store]:
    """Run a store within the context."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Store(process, int(process.stdout.readline()))
        process.stdin.close()


class CountingStore:
    """Store that records the name and the number of keys of each request.

    Attributes:
        requests: the records.
    """

    def __init__(self, store: Any) -> None:
        self.store, self.requests = store, []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            keys = arguments[0]
            self.requests.append((name, len(keys) if isinstance(keys, list) else 1))
            return getattr(self.store, name)(*arguments)

        return call


class Clock:
    """The monotonic clock."""

    def now(self) -> float:
        """Return the time in seconds."""
        return time.monotonic()

    def wait_until(self, moment: float) -> None:
        """Return at a time."""
        time.sleep(max(0.0, moment - self.now()))


class SimulatedRank(Heartbeat):
    """Heartbeat that records the failure where a real one ends its process.

    Attributes:
        failure: the message that the ranks agreed on; empty before.
        ended: value of the clock at the end.
        on_end: called when the process would have ended.
    """

    def __init__(
        self, ranks: Ranks, timeout: float, clock: Clock, client: dist.Store | None
    ) -> None:
        self.failure, self.ended, self.clock, self.client = "", 0.0, clock, client
        self.on_end: Callable[[], None] = lambda: None
        self._watched, self._searched = clock.now(), 0
        super().__init__(ranks, timeout)

    def _connect(self) -> dist.Store:
        return super()._connect() if self.client is None else self.client

    @property
    def is_over(self) -> bool:
        """Whether the process would have ended."""
        return self._stopped.is_set()

    def count_requests(self) -> list[tuple[str, int]]:
        """Return a list to which each request from now on is added: name and number of keys."""
        self._store = CountingStore(self._store)
        return self._store.requests

    def watch_now(self) -> None:
        """Do what the watching thread does once an interval."""
        now = self.clock.now()
        failure, self._watched = self.watch(now - self._watched), now
        if failure:
            self.end(failure)

    def search(self) -> None:
        """Do what a rank does once an interval after its collective has failed."""
        self._searched += 1
        failure = self.dead_ranks()
        if failure or self._searched == SEARCH_BEATS:
            self.end(failure or NOT_FOUND)

    def end(self, failure: str) -> None:
        """Record the failure and stop."""
        self.failure, self.ended = self._agree(failure)[0], self.clock.now()
        self.die()

    def die(self) -> None:
        """Stop without a message."""
        self._stopped.set()
        self.on_end()


class BeatLoop:
    """Calls the beats of ranks and lets them watch, each once in its interval.

    Attributes:
        ranks: in order.
        latest: seconds by which a call came too late, at most. Beats are missed if that is much.
    """

    def __init__(self, ranks: list[SimulatedRank], clock: Clock) -> None:
        self.ranks, self.latest = ranks, 0.0
        self._clock, self._numbers = clock, itertools.count()
        self._is_stopped = threading.Event()
        self._calls: list[tuple[float, int, SimulatedRank, Callable[[], None]]] = []
        now = clock.now()
        for rank in ranks:
            # Evenly distributed over the interval, as the ranks of a cluster. The golden ratio sets
            # consecutive ones apart.
            phase = rank.rank * 0.618034 % 1 * rank.interval
            self._add(now + phase, rank, rank.beat)
            self._add(now + (phase + rank.interval / 2) % rank.interval, rank, rank.watch_now)

    def _add(self, due: float, rank: SimulatedRank, call: Callable[[], None]) -> None:
        heapq.heappush(self._calls, (due, next(self._numbers), rank, call))

    def fail_collectives(self, ranks: list[SimulatedRank]) -> None:
        """Let ranks search dead ones, as their collective has failed."""
        for rank in ranks:
            rank.start_search()
            self._add(self._clock.now() + rank.interval, rank, rank.search)

    def run(self, seconds: float) -> None:
        """Run for some time, or until all ranks have ended."""
        stop = self._clock.now() + seconds
        while self._calls and not self._is_stopped.is_set():
            due, _, rank, call = self._calls[0]
            if rank.is_over:
                heapq.heappop(self._calls)
                continue
            self._clock.wait_until(min(due, stop))
            if self._clock.now() >= stop:
                return
            heapq.heappop(self._calls)
            self.latest = max(self.latest, self._clock.now() - due)
            call()
            self._add(self._clock.now() + rank.interval, rank, call)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run in a thread within the context."""
        thread = threading.Thread(target=self.run, args=(float("inf"),))
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        thread.start()
        try:
            yield
        finally:
            self._is_stopped.set()
            thread.join()
            sys.setswitchinterval(before)


def start_ranks(
    store: Store,
    world_size: int,
    per_machine: int,
    timeout: float,
    clock: Clock,
    client: dist.Store | None = None,
) -> list[SimulatedRank]:
    """Connect the ranks of machines of equal size to the store; all of them wait.

    Args:
        client: a connection to the store that all of them use; None: each has its own.
    """
    machines = world_size // per_machine

    def start(number: int) -> SimulatedRank:
        place = (number % per_machine, per_machine, number // per_machine, machines)
        return SimulatedRank(
            Ranks(number, world_size, *place, store.address), timeout, clock, client
        )

    # Torch looks up the name of the store's address, for its messages. A name server that does not
    # answer takes 15 s, one rank after another half an hour.
    os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
    with ThreadPoolExecutor(min(world_size, CONNECTING)) as pool:
        return list(pool.map(start, range(world_size)))
