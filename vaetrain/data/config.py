"""Settings of the training data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shards.errors import UserError
from shards.location import parse_location
from shards.remote.cache import CacheOptions
from vaetrain.settings import ConfigError, setting

SAMPLE_LAYOUTS = Path(__file__).resolve().parents[2] / "shards" / "sample"
SAMPLE_SHARDS = Path("data") / "sample"


@dataclass
class DataConfig:
    shards: str | None = setting(
        None,
        "folder of built shards, or its address: s3://, gs:// or http(s)://; null: the built-in "
        "sample, built into data/sample if absent",
    )
    width: int = setting(128, "image width in pixels", minimum=16, maximum=8192)
    max_height: int = setting(
        512,
        "largest page height in rows, after scaling to the width; taller pages are cut (training: "
        "a random window, evaluation: the top)",
        minimum=16,
        maximum=32767,
    )
    val_templates: list[str] = setting(
        [],
        "templates that form the validation set and are never trained on; "
        "if the shards have none of them, the split of the shards is used",
    )
    window_shards: int = setting(8, "shards whose samples are shuffled together", minimum=1)
    partitions: int | None = setting(
        None,
        "parts of the shards, of which each rank reads its own; a divisor of "
        "train.global_batch_size. null: that of the checkpoint, or chosen from data and batch: 1 "
        "for small data",
        minimum=1,
    )
    workers: int = setting(1, "reader processes per rank; 0: the trainer itself reads", minimum=0)
    prefetch: int = setting(4, "micro batches each reader process keeps ready", minimum=1)

    cache_dir: str | None = setting(
        None,
        "local folder that caches shards fetched from an address; processes and runs may share it; "
        "null: vaetrain in $XDG_CACHE_HOME or ~/.cache",
    )
    cache_gb: float = setting(50.0, "largest size of the cache, in 10^9 bytes", above=0)
    retry_seconds: float = setting(
        300.0,
        "how long fetching a shard is retried before the run ends",
        minimum=0,
    )

    @property
    def folder(self) -> str | Path:
        """Folder or address of the shards; that of the built-in sample if unset.

        Raises ConfigError for an address of an unknown kind.
        """
        if self.shards is None:
            return SAMPLE_SHARDS
        try:
            return parse_location(self.shards)
        except UserError as error:
            raise ConfigError(f"data.shards: {error}") from error

    @property
    def cache(self) -> CacheOptions:
        """Settings of the cache for shards at an address."""
        return CacheOptions(self.cache_dir, self.cache_gb, self.retry_seconds)
