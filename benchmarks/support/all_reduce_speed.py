"""Speed of the link between the ranks of an engine, measured by all-reduces of zeros."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.support.harness import synchronize
from vaetrain.engines.base import Engine

WARMUP = 2


def measure(engine: Engine, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Time all-reduces, and how much of the largest one overlaps with computing. Collective.

    Args:
        sizes: bytes, ascending.

    Returns: `seconds`, the medians for `sizes`, and `hidden` in [0, 1]: the share of the largest
        one's time that is saved by computing, for about twice as long, during the all-reduce.
    """
    values = torch.zeros(sizes[-1] // 4, device=engine.device)
    square = torch.rand(256, 256, device=engine.device)

    def compute(count: int) -> None:
        for _ in range(count):
            square @ square

    def overlapped(count: int) -> None:
        work = dist.all_reduce(values, async_op=True)
        compute(count)
        work.wait()

    def seconds(action: Callable[[], Any]) -> float:
        times = []
        for _ in range(WARMUP + repeats):
            dist.barrier()
            synchronize(engine.device)
            start = time.perf_counter()
            action()
            synchronize(engine.device)
            times.append(time.perf_counter() - start)
        return median(times[WARMUP:])

    def from_main(value: float) -> float:
        """Return the main process's value, so that all ranks use the same count."""
        return float(engine.broadcast(torch.tensor(value, device=engine.device)))

    reduces = [seconds(lambda size=size: dist.all_reduce(values[: size // 4])) for size in sizes]
    product = from_main(seconds(lambda: compute(1)))
    count = max(1, round(2 * from_main(reduces[-1]) / product))
    saved = seconds(lambda: compute(count)) + reduces[-1] - seconds(lambda: overlapped(count))
    return {"seconds": reduces, "hidden": min(max(saved / reduces[-1], 0.0), 1.0)}
