"""Settings of the training data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shards.errors import UserError
from shards.location import parse_location
from shards.remote.cache import CacheOptions
from vaetrain.settings import ConfigError, setting

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
        "rows kept of a page, in pixels after scaling to the width; taller pages are cut "
        "(training: a window drawn with the sample's randomness, evaluation: the top)",
        minimum=16,
        maximum=32767,
    )
    val_templates: list[str] = setting(
        [],
        "templates that make the validation set and are never trained on; "
        "where the shards hold none of them, the shards' own split is used",
    )
    window_shards: int = setting(8, "shards whose samples are shuffled together", minimum=1)
    workers: int = setting(1, "reader processes per rank; 0 reads in the trainer itself", minimum=0)
    prefetch: int = setting(4, "micro batches each reader process keeps ready", minimum=1)

    cache_dir: str | None = setting(
        None,
        "folder of this machine, for what is fetched from an address; all processes and runs may "
        "share it; null: vaetrain in $XDG_CACHE_HOME or ~/.cache",
    )
    cache_gb: float = setting(50.0, "size of it: 10^9 bytes of shards, at most", above=0)
    retry_seconds: float = setting(
        300.0,
        "how long a shard that cannot be fetched is tried for before the run ends",
        minimum=0,
    )

    @property
    def folder(self) -> str | Path:
        """The folder of the shards, or their address; the built-in sample's unless set.

        Raises ConfigError for an address that is not read.
        """
        if self.shards is None:
            return SAMPLE_SHARDS
        try:
            return parse_location(self.shards)
        except UserError as error:
            raise ConfigError(f"data.shards: {error}") from error

    @property
    def cache(self) -> CacheOptions:
        """How files of an address are cached."""
        return CacheOptions(self.cache_dir, self.cache_gb, self.retry_seconds)
