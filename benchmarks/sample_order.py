"""Order of the samples with and without partitions, for many machines: a simulation.

    python -m benchmarks.sample_order [--quick] [--out DIR]

No shard exists: the heights of pages are drawn from those of the sample's pages, independent of the
shard. Shards have 4,000 pages, give or take 30%. Each round has consecutive steps, of which are
computed: the share of padding in micro batches of eight pages, and the work of the rank with the
most padded rows, relative to the mean of the ranks, as the mean and the largest of the steps. Of an
epoch: what the machine that reads most reads of its share of the shards, if every rank is on a
machine of its own, and the shards that such a machine uses during one window. Writes
sample_order.json and sample_order.png.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.support import harness, report
from benchmarks.support.sample_pages import sample_lines
from shards import cli
from shards.format.index import RECORD
from shards.randomness import random_bits
from shards.reading.height_ladder import height_ladder
from shards.reading.partitioned_order import build_order, most_read
from shards.reading.sample_order import SampleOrder
from shards.reading.selection import Selection

WIDTH, ROWS, STRIDE = 128, 512, 16
MICRO_BATCH, WINDOW, JITTER = 8, 8, 0.3
LADDER = height_ladder(ROWS, STRIDE)


@dataclass(frozen=True)
class Case:
    """Shards, pages of a shard, pages of a step, and the numbers of ranks."""

    shards: int
    pages: int
    batch: int
    worlds: tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """Cases, rounds, and steps of each round."""

    cases: tuple[Case, ...]
    rounds: int
    steps: int


FULL = Sizes(
    (
        Case(12_288, 4000, 12_288, (2, 8, 64, 384, 512)),
        Case(4096, 4000, 12_288, (2, 8, 64, 384, 512)),
        Case(1000, 4000, 1024, (2, 8, 64)),
        Case(64, 4000, 64, (2, 8)),
    ),
    rounds=5,
    steps=10,
)
QUICK = Sizes((Case(64, 2000, 128, (2, 8)),), rounds=2, steps=10)


class Table:
    """Index of pages whose sizes are functions of their ids; no row is stored."""

    def __init__(self) -> None:
        pages = [json.loads(line) for line in sample_lines()]
        self.rows = np.zeros(len(pages), RECORD)
        self.rows["width"] = [page["w"] for page in pages]
        self.rows["height"] = [min(page["h"], 65_535) for page in pages]

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        bits = random_bits(0, torch.from_numpy(np.asarray(ids, np.int64))).numpy()
        return self.rows[bits % len(self.rows)]


def select(case: Case, seed: int) -> Selection:
    """Return pages in shards of unequal size."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(
        round((1 - JITTER) * case.pages), round((1 + JITTER) * case.pages) + 1, case.shards
    )
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return Selection(Table(), range(starts[-1]), starts, WIDTH, ROWS)


def padded_rows(order: SampleOrder, step: int, ranks: int) -> tuple[np.ndarray, int]:
    """Return the rows of each rank's micro batches in a step, (ranks,), and of all pages."""
    rows, valid = [], 0
    for rank in range(ranks):
        team = order.team(rank, ranks)
        if team.place == 0:
            heights = order.selection.heights_at(order.step(step, team.partitions)[0])
            tallest = heights.reshape(-1, team.ranks, MICRO_BATCH).max(axis=2)
            rows.append(MICRO_BATCH * LADDER[np.searchsorted(LADDER, tallest)].sum(axis=0))
            valid += int(heights.sum())
    return np.concatenate(rows), valid


def measure(order: SampleOrder, case: Case, sizes: Sizes) -> list[dict[str, Any]]:
    """Return the results of one order."""
    name = "1 partition" if order.partitions == 1 else f"{order.partitions} partitions"
    padding, work, worst = ({ranks: [] for ranks in case.worlds} for _ in range(3))
    first = len(order.selection) // order.global_batch_size // 3
    for number in range(sizes.rounds):
        steps = range(first + number * sizes.steps, first + (number + 1) * sizes.steps)
        found = {
            ranks: [padded_rows(order, step, ranks) for step in steps] for ranks in case.worlds
        }
        for ranks, of_steps in found.items():
            rows = sum(int(each.sum()) for each, _ in of_steps)
            spread = [each.max() / each.mean() for each, _ in of_steps]
            padding[ranks].append(100 * (1 - sum(valid for _, valid in of_steps) / rows))
            work[ranks].append(float(np.mean(spread)))
            worst[ranks].append(max(spread))
    pages, results = np.diff(order.selection.starts), []
    for ranks in case.worlds:
        group = f"{case.shards} shards, {case.batch} pages a step, {ranks} ranks"
        at_once = order.shards_at_once(order.partitions_of(range(1), ranks))
        results += [
            report.result(group, f"{quantity}, {name}", unit, values, better="lower")
            for quantity, unit, values in (
                ("padding", "% of the rows", padding[ranks]),
                ("work", "largest / mean of ranks", work[ranks]),
                ("work, worst step", "largest / mean of ranks", worst[ranks]),
                ("read", "times its share", [most_read(order, pages, ranks, 1)]),
                ("shards used in a window", "shards of a machine", [float(at_once)]),
            )
        ]
    return results


def main() -> int:
    """Run the command and return the exit status."""
    arguments = harness.parser("sample_order", __doc__).parse_args()
    sizes, seed, results = QUICK if arguments.quick else FULL, arguments.seed, []
    for case in cli.progress(sizes.cases, unit="case"):
        selection = select(case, seed)
        for partitions in (1, None):
            order = build_order(
                selection,
                partitions=partitions,
                seed=seed,
                global_batch_size=case.batch,
                window_shards=WINDOW,
                ladder=LADDER,
            )
            results += measure(order, case, sizes)
    settings = {"seed": seed, "rounds": sizes.rounds, "warmup": 0, "device": "cpu"}
    record = report.record(
        "sample_order", quick=arguments.quick, settings=settings, packages=(), results=results
    )
    report.publish(record, arguments.out)
    return 0


if __name__ == "__main__":
    cli.run("benchmarks.sample_order", main)
