"""Requests to stop: all ranks agree on one step, after which they save and exit together."""

from __future__ import annotations

import os
import signal
import threading

import torch
import torch.distributed as dist

from shards.lifetime import STOP_SIGNALS

ORPHAN_SECONDS = 60.0


class StopRequest:
    """SIGTERM, SIGUSR1, Ctrl-C or the launcher's death, as one decision of all ranks.

    After each step the ranks combine their flags in an all-reduce on the host. It runs during
    the next step, and its result is read after that one, so no step waits for it.
    """

    def __init__(self) -> None:
        self._requested = False
        self._pending: tuple[torch.Tensor, dist.Work] | None = None
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        self._parent = os.getppid()

    def _on_signal(self, *_: object) -> None:
        self._requested = True
        if os.getppid() != self._parent:
            # The launcher is dead. This rank may finish its step and save, but if another rank is
            # dead, too, it would wait for it until the collective's timeout.
            watchdog = threading.Timer(ORPHAN_SECONDS, os._exit, args=(1,))
            watchdog.daemon = True
            watchdog.start()

    def agreed(self) -> bool:
        """Return whether any rank had a request before the last step. Collective."""
        if self._group is None:
            return self._requested
        answer = False
        if self._pending is not None:
            flag, work = self._pending
            work.wait()
            answer = bool(flag)
        flag = torch.tensor(int(self._requested))
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = (flag, work)
        return answer
