"""What a device can do at best: the yardstick of model FLOP utilisation and of rooflines.

    python -m benchmarks.peak [--quick] [--out DIR] [--precision no|bf16|fp16]

The best rate over `MATMULS` and `CONVOLUTIONS`, the bandwidth of memory, and what one operation
costs that has nothing to do. `measure` gives them to other benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.support import harness, report
from benchmarks.support.harness import Case
from shards import cli

MATMULS = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 1024), (128, 4096, 2048))
"""(m, k, n): an m x k matrix times a k x n one."""
CONVOLUTIONS = ((64, 64, 64), (128, 64, 32), (256, 32, 16), (512, 16, 16))
"""(channels, rows, columns): 3 x 3 kernels, as many channels out as in, padded by one."""
PAGES = {"cpu": 4, "cuda": 64}  # of a convolution's batch; matrices have so many times the rows
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STREAMED = {"cpu": 1 << 26, "cuda": 1 << 28}  # floats: far more than any cache holds
TINY_OPERATIONS = 2000

COMPUTE, MEMORY, LAUNCH = "peak arithmetic", "peak memory", "an operation on one number"
COPY, TRIAD = "copy", "triad, a = b + s c"


@dataclass(frozen=True)
class Peak:
    """What a device can do at best.

    Attributes:
        flops: FLOP/s, a multiplication and an addition being two, the best median of the shapes.
        best: the shape it was reached with.
        bandwidth: bytes/s read and written, the better median of copy and triad.
        operation: seconds that an operation costs beside its work.
        results: entries of a record, see `report.result`.
    """

    flops: float
    best: str
    bandwidth: float
    operation: float
    results: list[dict[str, Any]] = field(repr=False)


def measure(
    device: torch.device, precision: str = "no", *, quick: bool = False, seed: int = 0
) -> Peak:
    """Measure it, in interleaved rounds, with the threads that this process has.

    Args:
        precision: `no` is float32, `bf16` and `fp16` are those.
    """
    timing = {"rounds": 3 if quick else 9, "warmup": 1, "device": device, "seed": seed}
    compute = _rates(COMPUTE, "GFLOP/s", 1e9, _compute(device, DTYPES[precision]), timing)
    memory = _rates(MEMORY, "GB/s", 1e9, _memory(device), timing)
    launch = _rates(LAUNCH, "operations/s", 1.0, [_tiny(device)], timing)
    best = max(compute, key=lambda entry: entry["median"])
    return Peak(
        flops=best["median"] * 1e9,
        best=best["name"],
        bandwidth=max(entry["median"] for entry in memory) * 1e9,
        operation=1 / launch[0]["median"],
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


def _compute(device: torch.device, dtype: torch.dtype) -> list[Case]:
    pages = PAGES[device.type]
    cases = []
    for m, k, n in MATMULS:
        m *= pages
        a = torch.randn(m, k, device=device, dtype=dtype)
        b = torch.randn(k, n, device=device, dtype=dtype)
        cases.append(
            Case(f"matmul {m} x {k} x {n}", _repeated(torch.mm, a, b, flops=2 * m * k * n))
        )
    for channels, rows, columns in CONVOLUTIONS:
        x = torch.randn(pages, channels, rows, columns, device=device, dtype=dtype)
        w = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        flops = 2 * pages * rows * columns * channels**2 * 9
        name = f"convolution {pages} x {channels} x {rows} x {columns}"
        cases.append(Case(name, _repeated(_convolve, x, w, flops=flops)))
    return cases


def _convolve(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, w, padding=1)


def _repeated(work: Callable[..., object], *tensors: torch.Tensor, flops: int) -> Callable[[], int]:
    """Work of about the same size for every shape, so that no clock's grain shows."""
    turns = max(1, round(4e9 * PAGES[tensors[0].device.type] / PAGES["cpu"] / flops))

    def run() -> int:
        with torch.no_grad():
            for _ in range(turns):
                work(*tensors)
        return turns * flops

    return run


def _memory(device: torch.device) -> list[Case]:
    a, b, c = torch.ones(3, STREAMED[device.type], device=device).unbind()

    def copy() -> int:
        a.copy_(b)
        return 2 * a.nbytes

    def triad() -> int:
        torch.add(b, c, alpha=3.0, out=a)
        return 3 * a.nbytes

    return [Case(COPY, copy), Case(TRIAD, triad)]


def _tiny(device: torch.device) -> Case:
    x = torch.zeros(1, device=device)

    def run() -> int:
        for _ in range(TINY_OPERATIONS):
            x.add_(1.0)
        return TINY_OPERATIONS

    return Case("addition", run)


def main() -> int:
    """Run the command; the exit status."""
    parser = harness.parser("peak", __doc__)
    parser.add_argument("--precision", choices=DTYPES, default="no", help="of the arithmetic")
    arguments = parser.parse_args()
    device, quick, seed = arguments.device, arguments.quick, arguments.seed
    found = measure(device, arguments.precision, quick=quick, seed=seed)
    rounds = len(found.results[0]["rounds"])
    settings = {"seed": seed, "rounds": rounds, "warmup": 1, "device": str(device)}
    settings["precision"] = arguments.precision
    told = report.record("peak", quick=quick, settings=settings, packages=(), results=found.results)
    report.publish(told, arguments.out)
    return 0


if __name__ == "__main__":
    cli.run("benchmarks.peak", main)
