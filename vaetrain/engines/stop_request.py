"""Asked to stop: all ranks notice at the same step boundary, and save together."""

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

    The ranks ask each other after every step, on the host and without waiting: the answer to a
    step's question is read at the end of the next step.
    """

    def __init__(self) -> None:
        self._asked = False
        self._pending: tuple[torch.Tensor, dist.Work] | None = None
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        self._parent = os.getppid()

    def _on_signal(self, *_: object) -> None:
        self._asked = True
        if os.getppid() != self._parent:
            # An orphan may finish its step and save, but if a peer is dead too it would wait for
            # it far longer than anyone expects it to live.
            watchdog = threading.Timer(ORPHAN_SECONDS, os._exit, args=(1,))
            watchdog.daemon = True
            watchdog.start()

    def agreed(self) -> bool:
        """Whether any rank had been asked by the last step; the same answer on all. Collective."""
        if self._group is None:
            return self._asked
        answer = False
        if self._pending is not None:
            flag, work = self._pending
            work.wait()
            answer = bool(flag)
        flag = torch.tensor(int(self._asked))
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = (flag, work)
        return answer
