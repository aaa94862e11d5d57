"""Messages while this rank waits for the other ranks to join the process group."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import torch.distributed as dist

from shards.cli import print_line
from vaetrain.engines.launching.launcher_command import is_under_launcher
from vaetrain.engines.launching.rank_variables import Ranks

FIRST_SECONDS, AGAIN_SECONDS = 5.0, 30.0  # until the first message, and between messages
POLL_SECONDS = 0.5
CONNECTION = timedelta(seconds=2)  # of one attempt to reach the store
KEY = "joined"


class Joining:
    """Count of the ranks that have reached the store where all ranks meet.

    Attributes:
        joined: number of ranks there, as far as this rank knows; at least this one.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.joined = ranks, 1
        self._done = threading.Event()
        # Where no launcher is seen, LOCAL_RANK may be wrong, and every process prints.
        self._prints = ranks.local_rank == 0 or not is_under_launcher()

    @contextlib.contextmanager
    def announced(self) -> Iterator[None]:
        """Print, while the context waits, how many ranks are missing and where they must join."""
        if self.ranks.world_size == 1:
            yield
            return
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            # A thread inside the store aborts the process if the interpreter ends meanwhile.
            thread.join(2 * CONNECTION.total_seconds())

    def _watch(self) -> None:
        store: dist.Store | None = None
        started = printed = time.monotonic()
        printed += FIRST_SECONDS - AGAIN_SECONDS
        while not self._done.wait(POLL_SECONDS):
            with contextlib.suppress(OSError, dist.DistError):
                if store is None:
                    store = self._connect()
                    store.add(KEY, 1)
                self.joined = store.add(KEY, 0)
            if time.monotonic() - printed >= AGAIN_SECONDS and self._prints:
                printed = time.monotonic()
                print_line(self._message(printed - started))

    def _message(self, seconds: float) -> str:
        missing = self.ranks.world_size - self.joined
        ranks = "rank" if missing == 1 else "ranks"
        return (
            f"waiting for {missing} more {ranks} at {self.ranks.address} since {seconds:.0f} s; "
            f"this is rank {self.ranks.rank} of {self.ranks.world_size}"
        )

    def _connect(self) -> dist.Store:
        """Return a client of the store; raise OSError if nothing answers there."""
        host, _, port = self.ranks.address.rpartition(":")
        # torch prints traces while it cannot connect, so it connects only when a server is there.
        with socket.create_connection((host, int(port)), CONNECTION.total_seconds()):
            pass
        store = dist.TCPStore(
            host, int(port), is_master=False, wait_for_workers=False, timeout=CONNECTION
        )
        # A launcher that restarts its ranks keeps its store.
        return dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
