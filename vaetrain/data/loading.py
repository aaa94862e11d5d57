"""The shards an experiment names, as this rank's batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import DamagedShards
from shards.open import open_index
from shards.reading.batch import Batch
from shards.reading.collator import Collator
from shards.reading.datasets import EvaluationDataset, TrainingDataset
from shards.reading.height_ladder import height_ladder
from shards.reading.reader_processes import read_batches
from shards.reading.sample_order import SampleOrder
from shards.reading.selection import Selection, select
from shards.reading.shard_files import ShardFiles
from vaetrain.data.batching import Batching
from vaetrain.data.config import SAMPLE_SHARDS, DataConfig
from vaetrain.engines.base import Engine
from vaetrain.settings import ConfigError

SAMPLE_LAYOUTS = Path(__file__).resolve().parents[2] / "shards" / "sample"
EVALUATION_BATCH = 16
PICTURED_PAGES = 8


def build_sample() -> None:
    """Build the shards of the built-in sample, if they are absent."""
    if not SAMPLE_SHARDS.exists():
        from shards.build import build
        from shards.building.options import BuildOptions

        build([SAMPLE_LAYOUTS], SAMPLE_SHARDS, BuildOptions(workers=1))


class PageReader:
    """The pages of some shards, at an experiment's size, shared among the ranks.

    Attributes:
        index: the shards' index.
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
        """Open the shards; raises ConfigError in one line."""
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
            # Every rank finds the same; in a shard only the one that reads it does.
            raise ConfigError(str(error)) from error
        self.ladder = height_ladder(data.max_height, stride)
        self.collator = Collator(
            ShardFiles(self.index),
            width=data.width,
            max_height=data.max_height,
            ladder=self.ladder,
            seed=seed,
        )
        self._read = partial(
            read_batches,
            workers=data.workers,
            prefetch=data.prefetch,
            pin_memory=engine.device.type == "cuda",
        )

    def select(self, split: str) -> Selection:
        """The pages of `train`, `val` or `all`, as the experiment splits them."""
        return select(
            self.index,
            split,
            width=self.config.width,
            max_height=self.config.max_height,
            val_templates=self.config.val_templates,
        )

    def pages(self, selection: Selection) -> Iterator[Batch | None]:
        """This rank's share of the pages, each once over all ranks; of tall ones the top."""
        reader = EvaluationDataset(
            selection,
            self.collator,
            rank=self.engine.rank,
            world_size=self.engine.world_size,
            batch_size=EVALUATION_BATCH,
        )
        for batch in self._read(reader, range(len(reader))):
            self.engine.mark_progress("at work on pages it only looks at")
            yield batch


class TrainingData(PageReader):
    """An experiment's training and validation pages.

    Attributes:
        train, val: the selected samples.
        order: the order of training.
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
        """Open the experiment's shards; raises ConfigError in one line."""
        super().__init__(config.folder, config, engine, stride, seed=seed)
        self.train, self.val = self.select("train"), self.select("val")
        if len(self.train) == 0:
            raise ConfigError(f"{self.index.location}: there are no pages to train on")
        self.check_cache()
        self.order = SampleOrder(
            self.train,
            seed=seed,
            global_batch_size=global_batch_size,
            window_shards=self.config.window_shards,
            ladder=self.ladder,
        )

    def check_cache(self) -> None:
        """Raises ConfigError where a cache cannot hold the shards that are shuffled together."""
        sizes = sorted((shard.bytes for shard in self.index.shards), reverse=True)
        needed = sum(sizes[: self.config.window_shards])
        if self.index.cache is not None and needed > self.config.cache.bytes:
            raise ConfigError(
                f"data.cache_gb: {self.config.cache_gb:g} is less than the {needed / 1e9:.3g} of "
                f"the shards that are shuffled together; raise it, or lower data.window_shards"
            )

    @property
    def fingerprint(self) -> str:
        """What tells these shards from any others."""
        return self.index.header["table_sha256"]

    @property
    def summary(self) -> dict[str, Any]:
        """What a model card says of them."""
        pages = {"train_pages": len(self.train), "val_pages": len(self.val)}
        return {**pages, "fingerprint": self.fingerprint}

    def training_batches(self, batching: Batching, steps: range) -> Iterator[Batch]:
        """This rank's micro batches of these optimizer steps, `accumulation` for each."""
        reader = TrainingDataset(
            self.order,
            self.collator,
            rank=self.engine.rank,
            world_size=self.engine.world_size,
            micro_batch_size=batching.micro_batch,
        )
        turns = batching.accumulation
        return self._read(reader, range(steps.start * turns, steps.stop * turns))

    def fixed_pages(self) -> Batch:
        """The validation pages that pictures always show, from low to tall."""
        places = np.arange(len(self.val))
        by_height = places[np.argsort(self.val.heights_at(places), kind="stable")]
        count = min(PICTURED_PAGES, len(places))
        shown = np.linspace(0, len(places) - 1, count).round().astype(int)
        ids = self.val.ids_at(by_height[shown])
        return self.collator.batch(ids, np.zeros_like(ids), training=False)
