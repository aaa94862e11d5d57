"""Ranks that are threads of this process, at a real store in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vaetrain.engines.heartbeat import Heartbeat
from vaetrain.engines.launching.rank_variables import Ranks

SWITCH_SECONDS = 1e-4

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


class SimulatedRank(Heartbeat):
    """Heartbeat that records the failure where a real one ends its process.

    Attributes:
        failure: the message that the ranks agreed on; empty before.
        ended: value of the monotonic clock at the end.
    """

    def __init__(self, ranks: Ranks, timeout: float) -> None:
        self.failure, self.ended = "", 0.0
        super().__init__(ranks, timeout)

    def count_requests(self) -> list[tuple[str, int]]:
        """Return a list to which each request from now on is added: name and number of keys."""
        self._store = CountingStore(self._store)
        return self._store.requests

    def end(self, failure: str) -> None:
        """Record the failure and stop."""
        self.failure, self.ended = self._agree(failure)[0], time.monotonic()
        self._stopped.set()

    def die(self) -> None:
        """Stop without a message."""
        self._stop()


def start_ranks(
    store: Store, world_size: int, per_machine: int, timeout: float
) -> list[SimulatedRank]:
    """Start the ranks of machines of equal size at the same time; all of them wait."""
    machines = world_size // per_machine

    def start(number: int) -> SimulatedRank:
        place = (number % per_machine, per_machine, number // per_machine, machines)
        return SimulatedRank(Ranks(number, world_size, *place, store.address), timeout)

    # Torch looks up the name of the store's address, for its messages. A name server that does not
    # answer takes 15 s, one rank after another half an hour.
    os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
    # By default a thread that has waited for the store waits up to 5 ms for the interpreter, so a
    # thousand threads miss their beats.
    sys.setswitchinterval(SWITCH_SECONDS)
    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(start, range(world_size)))


def wait_for_ends(ranks: list[SimulatedRank], seconds: float) -> None:
    """Wait until all these ranks have ended, at most this long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(rank.ended for rank in ranks):
        time.sleep(0.05)
