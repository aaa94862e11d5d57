"""Ranks that are threads of this process, at a real store in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from vaetrain.engines.heartbeat import Heartbeat
from vaetrain.engines.launching.rank_variables import Ranks

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
        self._stat = Path(f"/proc/{process.pid}/stat")

    def cpu_seconds(self) -> float:
        """Return the CPU time of the store's process so far."""
        user, system = self._stat.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running_store() -> Iterator[Store]:
    """Run a store within the context."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Store(process, int(process.stdout.readline()))
        process.stdin.close()


class SimulatedRank(Heartbeat):
    """Heartbeat that records the failure where a real one ends its process.

    Attributes:
        failure: the message that the ranks agreed on; empty before.
        ended: value of the monotonic clock at the end.
    """

    def __init__(self, ranks: Ranks, timeout: float) -> None:
        self.failure, self.ended = "", 0.0
        super().__init__(ranks, timeout)

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
    """Start the ranks of machines of equal size; all of them wait."""
    machines = world_size // per_machine
    return [
        SimulatedRank(
            Ranks(
                *(number, world_size, number % per_machine, per_machine),
                *(number // per_machine, machines, store.address),
            ),
            timeout,
        )
        for number in range(world_size)
    ]


def wait_for_ends(ranks: list[SimulatedRank], seconds: float) -> None:
    """Wait until all these ranks have ended, at most this long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(rank.ended for rank in ranks):
        time.sleep(0.05)
