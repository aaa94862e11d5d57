"""Peak arithmetic rate, memory bandwidth and operation overhead of this device.

    python -m benchmarks.peak [--quick] [--out DIR] [--precision no|bf16|fp16]

The other benchmarks use these rates for model FLOP utilisation and for rooflines. The command
writes peak.json and peak.png.
"""

from __future__ import annotations

from benchmarks.support import device_peak, harness, report
from shards import cli


def main() -> int:
    """Run the command and return the exit status."""
    parser = harness.parser("peak", __doc__)
    parser.add_argument(
        "--precision", choices=device_peak.DTYPES, default="no", help="of the arithmetic"
    )
    arguments = parser.parse_args()
    device, quick, seed = arguments.device, arguments.quick, arguments.seed
    results = device_peak.measure(device, arguments.precision, quick=quick, seed=seed).results
    record = report.record(
        "peak",
        quick=quick,
        settings={
            "seed": seed,
            "rounds": len(results[0]["rounds"]),
            "warmup": 1,
            "device": str(device),
            "precision": arguments.precision,
        },
        packages=(),
        results=results,
    )
    report.publish(record, arguments.out)
    return 0


if __name__ == "__main__":
    cli.run("benchmarks.peak", main)
