"""What the ranks of an engine send through, measured by all-reduces of nothing in particular."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.support.harness import synchronize
from vaetrain.engines.base import Engine


def measure(engine: Engine, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """How long all-reduces take, and how much of the largest hides behind computing. Collective.

    Args:
        sizes: bytes, ascending.

    Returns: `seconds`, the medians for `sizes`, and `hidden` in [0, 1]: the share of the largest
        one's time that is gained by computing, for about twice as long, while it is under way.
    """
    values = torch.zeros(sizes[-1] // 4, device=engine.device)
    square = torch.rand(256, 256, device=engine.device)

    def compute(count: int) -> None:
        for _ in range(count):
            square @ square

    def both(count: int) -> None:
        sent = dist.all_reduce(values, async_op=True)
        compute(count)
        sent.wait()

    def seconds(action: Callable[[], Any]) -> float:
        times = []
        for _ in range(2 + repeats):
            dist.barrier()
            synchronize(engine.device)
            start = time.perf_counter()
            action()
            synchronize(engine.device)
            times.append(time.perf_counter() - start)
        return median(times[2:])

    alone = [seconds(lambda size=size: dist.all_reduce(values[: size // 4])) for size in sizes]
    # The same number on all ranks, whose clocks differ.
    one = float(engine.broadcast(torch.tensor(seconds(lambda: compute(1)), device=engine.device)))
    most = float(engine.broadcast(torch.tensor(alone[-1], device=engine.device)))
    count = max(1, round(2 * most / one))
    gained = seconds(lambda: compute(count)) + alone[-1] - seconds(lambda: both(count))
    return {"seconds": alone, "hidden": min(max(gained / alone[-1], 0.0), 1.0)}
