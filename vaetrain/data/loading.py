"""Batches of one rank, from the shards of an experiment."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import DamagedShards
from shards.memory import free_memory
from shards.open import open_index
from shards.reading.batch import Batch
from shards.reading.collator import Collator
from shards.reading.datasets import EvaluationDataset, TrainingDataset
from shards.reading.height_ladder import height_ladder
from shards.reading.partitioned_order import build_order, most_read
from shards.reading.reader_processes import read_batches
from shards.reading.selection import Selection, select
from shards.reading.shard_files import ShardFiles
from vaetrain.data.batching import Batching
from vaetrain.data.config import SAMPLE_LAYOUTS, SAMPLE_SHARDS, DataConfig
from vaetrain.engines.base import Engine
from vaetrain.settings import ConfigError

EVALUATION_BATCH = 16  # pages
FIGURE_PAGES = 8
HEARTBEAT_GRACE = 5.0  # seconds
MOST_READ = 1.2  # times its share of the shards that a machine may read without a warning
ENOUGH_SHARDS = 12  # for each machine, to stay below it with shards of unequal size
# Validation pages that are compared with one another (mutual information, label metrics, figures),
# evenly spaced by sample id. All other metrics are of all pages.
MAX_COMPARED_PAGES = 2048


def build_sample() -> None:
    """Build the shards of the built-in sample if they are absent."""
    if not SAMPLE_SHARDS.exists():
        from shards.build import build
        from shards.building.options import BuildOptions

        build([SAMPLE_LAYOUTS], SAMPLE_SHARDS, BuildOptions(workers=1))


class PageReader:
    """Pages of shards at the size of an experiment, divided among the ranks.

    Attributes:
        index: index of the shards.
        ladder: page heights in rows that batches are padded to.
        collator: makes batches of sample ids.
    """

    def __init__(
        self,
        folder: str | Path,
        config: DataConfig,
        engine: Engine,
        stride: int,
        *,
        seed: int = 0,
    ) -> None:
        """Open the shards; raises ConfigError in one line.

        Args:
            folder: of the shards, or their address.
            stride: of the model; it must divide the width.
            seed: of the windows cut from tall training pages.
        """
        self.config = data = config
        self.engine = engine
        if data.width % stride:
            below = data.width // stride * stride
            near = [str(width) for width in (below, below + stride) if width]
            raise ConfigError(
                f"data.width: {data.width} is not a multiple of the model's stride, {stride}; "
                f"the nearest possible are {' and '.join(near)}"
            )
        try:
            self.index = open_index(folder, data.cache)
        except DamagedShards as error:
            # All ranks read the index, so this is refused like a wrong setting. A damaged shard is
            # found only by the rank that reads it.
            raise ConfigError(str(error)) from error
        self.ladder = height_ladder(data.max_height, stride)
        self.collator = Collator(
            ShardFiles(self.index),
            width=data.width,
            max_height=data.max_height,
            ladder=self.ladder,
            seed=seed,
        )
        # Several ranks have a heartbeat, which reports first, as it names the rank.
        grace = 0.0 if engine.heartbeat is None else HEARTBEAT_GRACE
        self._read = partial(
            read_batches,
            workers=data.workers,
            prefetch=data.prefetch,
            pin_memory=engine.device.type == "cuda",
            patience=engine.timeout + grace,
        )

    def select(self, split: str) -> Selection:
        """Return the samples of `train`, `val` or `all`, by the split of the experiment."""
        return select(
            self.index,
            split,
            width=self.config.width,
            max_height=self.config.max_height,
            val_templates=self.config.val_templates,
        )

    def batch_of(self, ids: np.ndarray) -> Batch:
        """Read pages by their sample ids, int64 (B,), on this process, onto the host."""
        return self.collator.batch(ids, np.zeros_like(ids), training=False)

    def pages(self, selection: Selection) -> Iterator[Batch | None]:
        """Yield this rank's share of the pages, each page once over all ranks, tall ones cut.

        None stands for a batch if other ranks have one more.
        """
        dataset = EvaluationDataset(
            selection,
            self.collator,
            rank=self.engine.rank,
            world_size=self.engine.world_size,
            batch_size=EVALUATION_BATCH,
        )
        for batch in self._read(dataset, range(len(dataset))):
            self.engine.mark_progress("evaluating pages")
            yield batch


class TrainingData(PageReader):
    """Training and validation pages of an experiment.

    Attributes:
        train, val: selected samples.
        order: order of the training samples.
        machine: ranks of this machine, by the engine.
    """

    def __init__(
        self,
        config: DataConfig,
        engine: Engine,
        stride: int,
        *,
        seed: int,
        global_batch_size: int,
    ) -> None:
        """Open the shards of the experiment; raises ConfigError in one line."""
        super().__init__(config.folder, config, engine, stride, seed=seed)
        self.train, self.val = self.select("train"), self.select("val")
        if len(self.train) == 0:
            raise ConfigError(f"{self.index.location}: no pages to train on")
        if (config.partitions or 1) > len(self.train):
            raise ConfigError(
                f"data.partitions: {config.partitions} are more than the {len(self.train)} "
                "training pages; give fewer, or null"
            )
        self.order = build_order(
            self.train,
            partitions=config.partitions,
            seed=seed,
            global_batch_size=global_batch_size,
            window_shards=self.config.window_shards,
            ladder=self.ladder,
        )
        self.machine = engine.machine
        self.check_cache()

    def check_cache(self) -> None:
        """Raise ConfigError if the cache is smaller than the shards that are shuffled together."""
        partitions = self.order.partitions_of(self.machine, self.engine.world_size)
        sizes = sorted((shard.bytes for shard in self.index.shards), reverse=True)
        needed = sum(sizes[: self.order.shards_at_once(partitions)])
        if self.index.cache is not None and needed > self.config.cache.bytes:
            smaller = "data.window_shards" if self.order.partitions == 1 else "data.partitions"
            raise ConfigError(
                f"data.cache_gb: {self.config.cache_gb:g} is less than the {needed / 1e9:.3g} GB "
                f"of the shards that are shuffled together; raise it, or lower {smaller}"
            )

    @property
    def most_read(self) -> float:
        """Bytes that the machine that reads most reads in an epoch, relative to its share.

        It is assumed that all machines have as many ranks as this one.
        """
        shards = self.index.shards_of(self.train.ids_at(self.train.starts[:-1]))
        sizes = np.array([shard.bytes for shard in self.index.shards])[shards]
        return most_read(self.order, sizes, self.engine.world_size, len(self.machine))

    @property
    def partitions_line(self) -> str | None:
        """One line about the partitions of the shards, and what a machine reads of its share.

        None on one machine without partitions.
        """
        machines, count = -(-self.engine.world_size // len(self.machine)), self.order.partitions
        if machines == 1:
            return f"data.partitions={count}" if count > 1 else None
        read, shards = self.most_read, len(self.train.starts) - 1
        line = (
            f"data.partitions={count}: a machine reads up to {read:.3g} times its share of the "
            f"{shards} training shards ({machines} machines)"
        )
        if read <= MOST_READ:
            return line
        return (
            f"warning: {line}; for at most {MOST_READ:g}, build smaller shards, about "
            f"{ENOUGH_SHARDS} for each machine (shards.build --shard-mb), and use a number of "
            "machines that divides the partitions"
        )

    @property
    def validation_warning(self) -> str | None:
        """One line if there are too few validation pages to judge the model; None otherwise."""
        if len(self.val) > 1:
            return None
        lacking, effect = "nothing to validate on", "no metrics, posterior report or pictures"
        if len(self.val) == 1:
            lacking, effect = "only one validation page", "no posterior report"
        return (
            f"warning: {lacking} in {self.index.location}, with {len(self.train)} training pages: "
            f"there will be {effect}; build the shards of more pages or with a larger "
            "--val-fraction, or name templates in data.val_templates"
        )

    def memory_warning(self, micro_batch: int) -> str | None:
        """One line if the batches that readers keep ready need more than half the free memory.

        Those of all ranks of this machine count; a batch of boxes is estimated by its files.
        """
        config, workers = self.config, self.config.workers
        page = sum(shard.bytes for shard in self.index.shards) / len(self.index)
        if self.index.header["store"] == "png":
            page = config.width * int(self.ladder[-1])
        ranks = len(self.machine)
        # In addition to those that are ready, a reader process makes one and sends one.
        needed = ranks * workers * (config.prefetch + 2) * micro_batch * page
        free = free_memory()
        if free is None or needed <= free / 2:
            return None
        return (
            f"warning: reader processes keep up to {needed / 1e9:.3g} GB of batches ready ({ranks} "
            f"ranks x data.workers={workers} x (data.prefetch={config.prefetch} + 2) x "
            f"{micro_batch} pages x {page / 1e3:.3g} KB), but {free / 1e9:.3g} GB of memory are "
            "free; lower data.workers or data.prefetch"
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the index table, which identifies the shards."""
        return self.index.header["table_sha256"]

    @property
    def summary(self) -> dict[str, Any]:
        """Page counts and fingerprint, for the model card."""
        return {
            "train_pages": len(self.train),
            "val_pages": len(self.val),
            "fingerprint": self.fingerprint,
        }

    def training_batches(self, batching: Batching, steps: range) -> Iterator[Batch]:
        """Yield this rank's micro batches, `batching.accumulation` for each optimizer step."""
        dataset = TrainingDataset(
            self.order,
            self.collator,
            rank=self.engine.rank,
            world_size=self.engine.world_size,
            micro_batch_size=batching.micro_batch,
            machine=self.machine,
            stop=steps.stop,
        )
        per_step = batching.accumulation
        return self._read(dataset, range(steps.start * per_step, steps.stop * per_step))

    @property
    def compared(self) -> Selection:
        """Validation pages that are compared with one another: all, or `MAX_COMPARED_PAGES`."""
        return self.val.spaced(MAX_COMPARED_PAGES)

    def fixed_pages(self) -> Batch:
        """Return those of the compared validation pages that all figures show, low to tall."""
        pages = self.compared
        places = np.arange(len(pages))
        by_height = places[np.argsort(pages.heights_at(places), kind="stable")]
        count = min(FIGURE_PAGES, len(places))
        shown = np.linspace(0, len(places) - 1, count).round().astype(int)
        return self.batch_of(pages.ids_at(by_height[shown]))
