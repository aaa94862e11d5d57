"""Time and memory of one validation beyond the model: gathering and summarising its outputs.

    python -m benchmarks.validation [--quick] [--out DIR]

Made-up outputs of the default model (128 dimensions, pages of 128 x 512 px) in batches of 16 take
the place of encoding and reconstruction, whose time is proportional to the pages. Compared are at
most `MAX_COMPARED_PAGES` pages, as in training, and all pages, as in a validation without a bound;
the latter is measured up to 10,000 pages. Each case runs in a process of its own, with one thread;
times are CPU seconds, so that other work on the machine hardly changes them.
Label metrics are measured for the bounded case only. Writes validation.json and validation.png.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.support import harness, report
from shards import cli
from shards.reading.selection import Selection
from vaetrain.data.loading import EVALUATION_BATCH, MAX_COMPARED_PAGES
from vaetrain.evaluation.pixel_metrics import GRADIENT_ENERGIES, PIXEL_METRICS
from vaetrain.evaluation.retrieval import PageLabels, label_metrics
from vaetrain.evaluation.validation import SetCollector, compared_ids, summarise
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE

WIDTH, ROWS, LABELS, TEMPLATES = 128, 512, 12, 300
BOUNDED, ALL = "bounded", "all pages"
MAX_UNBOUNDED = 10_000  # the time to compare all pages grows with the square of their number


@dataclass(frozen=True)
class Measured:
    """Measurements of one validation.

    Attributes:
        seconds: CPU seconds by part.
        peak: bytes by which the process's peak memory grew.
        gathered: bytes that the main process gathered.
    """

    seconds: dict[str, float]
    peak: int
    gathered: int


class OneRank:
    """The part of a one-rank engine that a validation uses."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.received = 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values."""
        return values

    def gather_to_main(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows, and count their bytes."""
        self.received += rows.nbytes
        return rows


def measure(count: int, limit: int, seed: int) -> Measured:
    """Measure the validation of `count` made-up pages, of which at most `limit` are compared."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = VAE(ModelConfig(start="random"), WIDTH, ROWS)
    names = ["loss", "recon", "kl", *PIXEL_METRICS, *GRADIENT_ENERGIES]
    dimensions = model.latent_dim
    sizes = [len(names), dimensions, dimensions, dimensions]
    pages = Selection(np.empty(0), range(count), np.array([0, count]), WIDTH, ROWS)
    engine = OneRank()
    table = torch.randn(EVALUATION_BATCH, sum(sizes)).abs()
    structure = torch.rand(EVALUATION_BATCH, sum(model.structure_sizes))
    seconds, before = {}, peak_memory()
    start = time.process_time()
    collector = SetCollector(
        names, sizes, len(structure[0]), engine, compared_ids(pages, pages.spaced(limit))
    )
    for ids in torch.arange(count).split(EVALUATION_BATCH):
        table = table.roll(1, dims=1)  # so that no two batches are equal
        compared = collector.is_compared(ids)
        heights = torch.full_like(ids, ROWS)
        collector.update(ids, heights, table[: len(ids)], compared, structure[compared])
    encoded = collector.result()
    seconds["gather"] = time.process_time() - start
    summarise(encoded)
    seconds["gather and summarise"] = time.process_time() - start
    if limit < count or count <= MAX_COMPARED_PAGES:
        start = time.process_time()
        size = (len(encoded.pages.ids),)
        labels = PageLabels(torch.randint(LABELS, size), torch.randint(TEMPLATES, size))
        label_metrics(encoded.pages.mu, labels)
        seconds["label metrics"] = time.process_time() - start
    return Measured(seconds, peak_memory() - before, engine.received)


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_a_process(count: int, limit: int, seed: int) -> Measured:
    """Measure in a new process, whose peak memory is that of this case alone."""
    command = [sys.executable, "-m", "benchmarks.validation", "--seed", str(seed)]
    command += ["--measure", str(count), str(limit)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Measured(**json.loads(done.stdout))


def main() -> int:
    """Run the command and return the exit status."""
    parser = harness.parser("validation", __doc__)
    parser.add_argument(
        "--measure", nargs=2, type=int, metavar="N", help="internal: pages, and compared pages"
    )
    arguments = parser.parse_args()
    quick, seed = arguments.quick, arguments.seed
    if arguments.measure:
        print(json.dumps(asdict(measure(*arguments.measure, seed))))
        return 0
    counts = (100, 3000) if quick else (1000, 10_000, 100_000)
    rounds = 1 if quick else 3
    cases = [(count, BOUNDED, MAX_COMPARED_PAGES) for count in counts]
    cases += [(count, ALL, count) for count in counts if count <= MAX_UNBOUNDED]
    measured: dict[tuple[int, str], list[Measured]] = {}
    for _ in range(rounds):
        for count, name, limit in cli.progress(cases, unit="case"):
            measured.setdefault((count, name), []).append(in_a_process(count, limit, seed))
    record = report.record(
        "validation",
        quick=quick,
        settings={"seed": seed, "rounds": rounds, "warmup": 0, "device": "cpu", "threads": 1},
        packages=(),
        results=results_of(measured),
    )
    report.publish(record, arguments.out)
    return 0


def results_of(measured: dict[tuple[int, str], list[Measured]]) -> list[dict[str, Any]]:
    """Return the results of all rounds, grouped by the number of pages."""
    results = []
    for (count, name), rounds in measured.items():
        group = f"{count} pages"
        for part in rounds[0].seconds:
            values = [each.seconds[part] for each in rounds]
            results.append(report.result(group, f"{name}: {part}", "CPU s", values, better="lower"))
        for part, values in (
            ("peak memory", [each.peak / 1e6 for each in rounds]),
            ("gathered", [each.gathered / 1e6 for each in rounds]),
        ):
            results.append(report.result(group, f"{name}: {part}", "MB", values, better="lower"))
    return results


if __name__ == "__main__":
    cli.run("benchmarks.validation", main)
