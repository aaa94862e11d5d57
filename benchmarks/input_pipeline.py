"""Pages per second on one core, from shards on disk to batches of float images on the device.

    python -m benchmarks.input_pipeline --out runs/benchmarks

Pages of the built-in sample, 128 and 256 px wide, from boxes and from PNGs, are compared with other
input pipelines; then augmentation alone is compared with kornia and torchvision. All return the
same images of the same pages, padded alike. Writes input_pipeline.json and input_pipeline.png.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.support import harness, report
from benchmarks.support.harness import Case
from benchmarks.support.other_trainers import augmentation
from benchmarks.support.other_trainers.input_pipelines import PEERS, PageFiles
from benchmarks.support.sample_pages import SAMPLE, ShardBatches, write_pictures
from shards import cli
from shards.build import build
from shards.building.options import BuildOptions
from shards.format.index import Index
from shards.open import open_index
from shards.reading.batch import Batch
from shards.reading.collator import Collator
from shards.reading.datasets import EvaluationDataset
from shards.reading.height_ladder import height_ladder
from shards.reading.selection import select
from shards.reading.shard_files import ShardFiles

HEIGHTS = {128: 512, 256: 1024}  # maximum height by width, as in the experiments, px
BATCH, STRIDE = 16, 16
BOXES, PNGS = "ours, boxes", "ours, PNGs"
OVER_PIL = {128: 5.0, 256: 3.0}  # target ratio of boxes to WebDataset + PIL, by width
PACKAGES = ("torchvision", "pillow", "webdataset", "mosaicml-streaming", "litdata", "kornia")


@dataclass(frozen=True)
class Sizes:
    """Pages, counted rounds, warm-up rounds, and batches to augment."""

    pages: int
    rounds: int
    warmup: int
    augmented: int


FULL = Sizes(pages=10_000, rounds=15, warmup=2, augmented=4)
QUICK = Sizes(pages=48, rounds=3, warmup=1, augmented=1)


@dataclass(frozen=True)
class Stored:
    """The same batches of one width as shards of boxes, shards of PNGs, and PNG files for peers."""

    boxes: ShardBatches
    pngs: ShardBatches
    pages: PageFiles


def main() -> int:
    """Run the command and return the exit status."""
    arguments = harness.parser("input_pipeline", __doc__).parse_args()
    record = measure(arguments.quick, arguments.device, arguments.seed)
    report.publish(record, arguments.out)
    return 0


def measure(quick: bool, device: torch.device, seed: int) -> dict[str, Any]:
    """Run the whole benchmark and return its record."""
    sizes = QUICK if quick else FULL
    entries = report.Entries()
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "boxes"
        build([SAMPLE], shards, BuildOptions(workers=1))
        core = harness.pin_to_one_core()
        for width in HEIGHTS:
            width_folder = Path(folder) / str(width)
            width_folder.mkdir()
            stored = store(open_index(shards), width, width_folder, sizes.pages)
            timing = {"rounds": sizes.rounds, "warmup": sizes.warmup}
            timing |= {"device": device, "seed": seed}
            group = f"{width} px, pages from disk"
            measure_input(group, width, stored, width_folder, entries, timing)
            batches = list(stored.boxes.one_pass())
            some = batches[:: len(batches) // sizes.augmented]  # from low to tall
            measure_augmentation(f"{width} px, augmentation alone", some, entries, timing)
    settings = {"seed": seed, "device": str(device), "core": core, "batch": BATCH}
    settings |= {"heights": {str(width): rows for width, rows in HEIGHTS.items()}, **asdict(sizes)}
    return report.record(
        "input_pipeline", quick=quick, settings=settings, packages=PACKAGES, **vars(entries)
    )


def store(index: Index, width: int, folder: Path, count: int) -> Stored:
    """Write the pages of `index` as PNGs and as shards of PNGs.

    Pages are in batches of like height, as in training. Tall pages are cut before they are stored,
    so that no pipeline decodes unused rows. A peer that reads in stored order reads these batches
    sequentially, while ours are read from wherever the shards have them.
    """
    ladder = height_ladder(HEIGHTS[width], STRIDE)
    rows = HEIGHTS[width]
    selection = select(index, "all", width=width, max_height=rows).thinned(count)
    limits = {"width": width, "max_height": rows, "ladder": ladder, "seed": 0}
    by_height = EvaluationDataset(selection, Collator(ShardFiles(index), **limits)).ids
    cuts = range(BATCH, len(by_height), BATCH)
    boxes = ShardBatches(Collator(ShardFiles(index), **limits), np.split(by_height, cuts))

    pictures = folder / "pictures"
    files = write_pictures(boxes.one_pass(), pictures)

    options = BuildOptions(format="png", png_width=width, keep_duplicates=True, workers=1)
    build([pictures], folder / "pngs", options)
    png_shards = ShardFiles(open_index(folder / "pngs"))
    number_of = {png_shards.key(number): number for number in range(len(png_shards.index))}
    ids = np.array([number_of[file.stem] for file in files])
    pngs = ShardBatches(Collator(png_shards, **limits), np.split(ids, cuts))
    return Stored(boxes, pngs, PageFiles(files, BATCH, ladder))


def measure_input(
    group: str,
    width: int,
    stored: Stored,
    folder: Path,
    entries: report.Entries,
    timing: dict[str, Any],
) -> None:
    """Measure pages per second from disk to float images on the device, for ours and all peers."""
    device = timing["device"]
    passes: dict[str, Callable[[], Iterable[Tensor]]] = {
        BOXES: lambda: (batch.to(device).images() for batch in stored.boxes.one_pass()),
        PNGS: lambda: (batch.to(device).images() for batch in stored.pngs.one_pass()),
    }
    for name, store_pages in PEERS.items():
        peer_folder = folder / store_pages.__name__
        peer_folder.mkdir()
        try:
            open_pass = store_pages(stored.pages, peer_folder)
        except ImportError as error:
            entries.missing.append({"group": group, "name": name, "reason": str(error)})
        else:
            passes[name] = lambda start=open_pass: (as_floats(b, device) for b in start())
    cases = [
        Case(name, lambda start=start: sum(map(len, start()))) for name, start in passes.items()
    ]
    rates = harness.interleave(cases, **timing)
    results = [report.result(group, name, "pages/s", rates[name]) for name in passes]
    entries.results += results
    medians = {entry["name"]: entry["median"] for entry in results}
    entries.comparisons += [
        report.compare(results, group, *comparison) for comparison in comparisons(width, medians)
    ]


def as_floats(batch: Tensor, device: torch.device) -> Tensor:
    """Move a peer's batch to the device as float32 in [0, 1]."""
    return batch.to(device, non_blocking=True).float().div_(255.0)


def comparisons(width: int, medians: dict[str, float]) -> list[tuple[str, str, float | None]]:
    """Return the pairs of names to compare, each with the target of their ratio.

    Args:
        medians: pages per second of the cases that were measured.
    """
    pil, raw = "WebDataset + PIL", "LitData, raw pixels"
    peers = sorted((name for name in PEERS if name in medians), key=medians.get, reverse=True)
    of_pngs = [name for name in peers if name != raw]
    others = [name for name in of_pngs if name != pil]
    return [
        *[(BOXES, name, OVER_PIL[width]) for name in of_pngs if name == pil],
        *[(BOXES, name, 2.0) for name in others[:1]],
        *[(PNGS, name, 1.0) for name in of_pngs[:1]],
        *[(BOXES, name, None) for name in peers if name == raw],
        (BOXES, PNGS, None),
    ]


def measure_augmentation(
    group: str, batches: Sequence[Batch], entries: report.Entries, timing: dict[str, Any]
) -> None:
    """Measure pages per second of augmentation on the device, for ours and all peers.

    All start from images; ours is also measured from boxes, with drawing.
    """
    device, seed = timing["device"], timing["seed"]
    boxes = [batch.to(device) for batch in batches]
    images = [batch.images() for batch in boxes]
    pixels = [
        replace(batch, boxes=None, owner=None, pixels=image.mul(255).round().byte())
        for batch, image in zip(boxes, images, strict=True)
    ]
    augment = augmentation.ours(seed)
    cases = [
        Case("ours, images", lambda: sum(len(augment(batch)[0]) for batch in pixels)),
        Case("ours, boxes, with drawing", lambda: sum(len(augment(batch)[0]) for batch in boxes)),
    ]
    for name, make in augmentation.PEERS.items():
        try:
            peer = make(seed)
        except ImportError as error:
            entries.missing.append({"group": group, "name": name, "reason": str(error)})
            continue

        def run(peer: augmentation.AugmentImages = peer) -> int:
            pairs = zip(images, boxes, strict=True)
            return sum(len(peer(image, batch.heights)[0]) for image, batch in pairs)

        cases.append(Case(name, run))
    rates = harness.interleave(cases, **timing)
    results = [report.result(group, case.name, "pages/s", rates[case.name]) for case in cases]
    entries.results += results
    targets = {"kornia AugmentationSequential": 2.0, "torchvision v2, page by page": None}
    entries.comparisons += [
        report.compare(results, group, "ours, images", name, target)
        for name, target in targets.items()
        if name in rates
    ]


if __name__ == "__main__":
    cli.run("benchmarks.input_pipeline", main)
