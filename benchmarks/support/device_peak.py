"""Peak arithmetic rate, memory bandwidth and operation overhead of a device.

Model FLOP utilisation and rooflines are relative to these. The arithmetic rate is the best over
`MATMULS` and `CONVOLUTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.support import harness, report
from benchmarks.support.harness import Case

MATMULS = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 1024), (128, 4096, 2048))
"""(m, k, n): an m x k matrix times a k x n one."""
CONVOLUTIONS = ((64, 64, 64), (128, 64, 32), (256, 32, 16), (512, 16, 16))
"""(channels, rows, columns): 3 x 3 kernels, output channels equal to input channels, padding 1."""
PAGES = {"cpu": 4, "cuda": 64}  # batch size of a convolution; rows of a matrix are multiplied by it
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STREAMED = {"cpu": 1 << 26, "cuda": 1 << 28}  # floats an array: far more than any cache holds
TINY_OPERATIONS = 2000
ROUND_FLOPS = 4e9  # of a round on a CPU, so that the clock's resolution does not matter

COMPUTE, MEMORY, LAUNCH = "peak arithmetic", "peak memory", "an operation on one number"
COPY, TRIAD = "copy", "triad, a = b + s c"


@dataclass(frozen=True)
class Peak:
    """Peak rates of a device.

    Attributes:
        flops: FLOP/s, the best median of the shapes; a multiplication and an addition count as two.
        bandwidth: bytes/s read and written, the better median of copy and triad.
        results: entries of a record, see `report.result`.
    """

    flops: float
    bandwidth: float
    results: list[dict[str, Any]] = field(repr=False)


def measure(
    device: torch.device, precision: str = "no", *, quick: bool = False, seed: int = 0
) -> Peak:
    """Measure the peak rates in interleaved rounds, with this process's number of threads.

    Args:
        precision: of the arithmetic, as in Accelerate: `no` is float32.
    """
    timing = {"rounds": 3 if quick else 9, "warmup": 1, "device": device, "seed": seed}
    compute = _rates(COMPUTE, "GFLOP/s", 1e9, _compute_cases(device, DTYPES[precision]), timing)
    memory = _rates(MEMORY, "GB/s", 1e9, _memory_cases(device), timing)
    launch = _rates(LAUNCH, "operations/s", 1.0, [_overhead_case(device)], timing)
    return Peak(
        flops=max(entry["median"] for entry in compute) * 1e9,
        bandwidth=max(entry["median"] for entry in memory) * 1e9,
        results=[*compute, *memory, *launch],
    )


def _rates(
    group: str, unit: str, scale: float, cases: Sequence[Case], timing: dict[str, Any]
) -> list[dict[str, Any]]:
    rates = harness.interleave(cases, **timing)
    return [
        report.result(group, name, unit, [rate / scale for rate in rounds])
        for name, rounds in rates.items()
    ]


def _compute_cases(device: torch.device, dtype: torch.dtype) -> list[Case]:
    pages = PAGES[device.type]
    cases = []
    for m, k, n in MATMULS:
        m *= pages
        a = torch.randn(m, k, device=device, dtype=dtype)
        b = torch.randn(k, n, device=device, dtype=dtype)
        cases.append(Case(f"matmul {m} x {k} x {n}", _repeat(torch.mm, a, b, flops=2 * m * k * n)))
    for channels, rows, columns in CONVOLUTIONS:
        x = torch.randn(pages, channels, rows, columns, device=device, dtype=dtype)
        w = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        flops = 2 * pages * rows * columns * channels**2 * 9
        name = f"convolution {pages} x {channels} x {rows} x {columns}"
        cases.append(Case(name, _repeat(_convolve, x, w, flops=flops)))
    return cases


def _convolve(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, w, padding=1)


def _repeat(
    operation: Callable[..., object], *tensors: torch.Tensor, flops: int
) -> Callable[[], int]:
    """Return a function that repeats an operation to about `ROUND_FLOPS` and returns its FLOPs.

    Args:
        flops: of one call.
    """
    scale = PAGES[tensors[0].device.type] / PAGES["cpu"]
    repeats = max(1, round(ROUND_FLOPS * scale / flops))

    def run() -> int:
        with torch.no_grad():
            for _ in range(repeats):
                operation(*tensors)
        return repeats * flops

    return run


def _memory_cases(device: torch.device) -> list[Case]:
    a, b, c = torch.ones(3, STREAMED[device.type], device=device).unbind()

    def copy() -> int:
        a.copy_(b)
        return 2 * a.nbytes

    def triad() -> int:
        torch.add(b, c, alpha=3.0, out=a)
        return 3 * a.nbytes

    return [Case(COPY, copy), Case(TRIAD, triad)]


def _overhead_case(device: torch.device) -> Case:
    x = torch.zeros(1, device=device)

    def run() -> int:
        for _ in range(TINY_OPERATIONS):
            x.add_(1.0)
        return TINY_OPERATIONS

    return Case("addition", run)
