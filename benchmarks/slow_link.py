"""Cost of a slow link between two machines: time of a training step under each engine.

    python -m benchmarks.slow_link [--quick] [--out DIR] [--engines NAME...]

Two network namespaces are two machines with two ranks each (needs root on Linux). A program passes
their packets on: it delays them and limits their rate, and both change while the training runs. So
all cases of an engine are steps of one training, in interleaved rounds. The model is `tiny`. Writes
slow_link.json and .png.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.support import harness, report
from benchmarks.support.machines.link import SlowLink
from benchmarks.support.machines.namespaces import launch_command, launch_path, two_machines
from launch.processes import MARK, kill_family, new_mark
from shards import cli
from shards.errors import UserError
from vaetrain.engines.engine_files import engine_names
from vaetrain.engines.spec import ENGINES

FAST = 1e9  # bytes per second, more than the program passes on
CASES = {
    "no latency": (0.0, FAST),
    "5 ms": (0.005, FAST),
    "20 ms": (0.02, FAST),
    "20 ms and 100 Mbit/s": (0.02, 12.5e6),
}
RANKS, BATCH, STEPS = 2, 8, 5  # ranks of a machine, pages of a step, steps of a line of the log
START_SECONDS, LINE_SECONDS = 240.0, 120.0
SETTINGS = (
    "data.width=64",
    "data.max_height=128",
    "data.workers=0",
    "model.size=tiny",
    "model.latent_dim=16",
    "model.start=random",
    f"train.global_batch_size={BATCH}",
    f"train.log_every_images={STEPS * BATCH}",
    "train.max_images=10000000",
    "train.validate_every_images=10000000",
    "train.checkpoint_every_images=10000000",
    "tracker=none",
)


class Training:
    """A running training whose steps are timed by its metrics file."""

    def __init__(self, folder: Path, launchers: list[subprocess.Popen[bytes]]) -> None:
        self._metrics, self._launchers = folder / "metrics.jsonl", launchers
        self._count = 0

    def next_seconds(self, patience: float) -> float:
        """Return the mean seconds of a step of the next line of the log; raises UserError."""
        deadline = time.monotonic() + patience
        while True:
            lines = self._metrics.read_text().splitlines() if self._metrics.exists() else []
            if len(lines) > self._count:
                rate = json.loads(lines[self._count])["images_per_second"]
                self._count += 1
                return BATCH / rate
            if any(launcher.poll() is not None for launcher in self._launchers):
                raise UserError("the training has ended; see its messages above")
            if time.monotonic() > deadline:
                raise UserError(f"the training logged nothing for {patience:g} s")
            time.sleep(0.05)

    def skip_lines(self) -> None:
        """Skip the lines that are there, and the next one, whose steps had begun before."""
        self._count = len(self._metrics.read_text().splitlines())
        self.next_seconds(LINE_SECONDS)


@contextlib.contextmanager
def training(engine: str, machines: list[str], seed: int) -> Iterator[Training]:
    """Train on two machines until the context ends."""
    mark = new_mark()
    environment = os.environ | {MARK: mark, "PATH": launch_path(), "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--run-dir", folder, *SETTINGS, f"train.seed={seed}"]
        launchers = [
            subprocess.Popen(
                launch_command(machines, number, engine, RANKS, arguments),
                env=environment,
                stdout=subprocess.DEVNULL,
            )
            for number in range(len(machines))
        ]
        try:
            yield Training(Path(folder), launchers)
        finally:
            kill_family(mark)
            for launcher in launchers:
                launcher.wait()


def measure(engine: str, rounds: int, seed: int) -> dict[str, list[float]]:
    """Return the seconds of a step by case and round."""
    found: dict[str, list[float]] = {case: [] for case in CASES}
    order = random.Random(seed)
    with (
        two_machines() as machines,
        SlowLink(machines) as link,
        training(engine, machines, seed) as run,
    ):
        run.next_seconds(START_SECONDS)
        for _ in range(rounds):
            for case in order.sample(list(CASES), len(CASES)):
                link.set(*CASES[case])
                run.skip_lines()
                found[case].append(run.next_seconds(LINE_SECONDS))
    return found


def main() -> int:
    """Run the command and return the exit status."""
    parser = harness.parser("slow_link", __doc__)
    engines = [name for name in engine_names() if ENGINES[name].has_process_group]
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=engines,
        default=["ddp", "zero1", "zero2", "zero3", "fsdp2", "fsdp2_hybrid"],
        help="default: all without offload",
    )
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else 3
    results: list[dict[str, Any]] = []
    group, base = "time of a step", next(iter(CASES))
    for engine in cli.progress(arguments.engines, unit="engine"):
        for case, seconds in measure(engine, rounds, arguments.seed).items():
            results.append(report.result(group, f"{engine}, {case}", "s", seconds, better="lower"))
    record = report.record(
        "slow_link",
        quick=arguments.quick,
        settings={
            "seed": arguments.seed,
            "rounds": rounds,
            "warmup": 1,
            "device": "cpu",
            "ranks": 2 * RANKS,
            "steps of a round": STEPS,
        },
        packages=["accelerate", "deepspeed"],
        results=results,
        comparisons=[
            report.compare(results, group, f"{engine}, {case}", f"{engine}, {base}", None)
            for engine in arguments.engines
            for case in CASES
            if case != base
        ],
    )
    report.publish(record, arguments.out)
    return 0


if __name__ == "__main__":
    cli.run("benchmarks.slow_link", main)
