"""Micro batch and accumulation steps of one rank, derived from the global batch."""

from __future__ import annotations

from dataclasses import dataclass

from vaetrain.settings import ConfigError

MAX_DEFAULT_MICRO_BATCH = 32  # a larger one, which may exceed the memory, has to be set


@dataclass(frozen=True)
class Batching:
    """Split of an optimizer step: global batch = micro batch x world size x accumulation."""

    global_batch: int
    micro_batch: int
    accumulation: int


def split_global_batch(
    global_batch_size: int,
    micro_batch_size: int | None,
    world_size: int,
    *,
    pairs: bool = False,
) -> Batching:
    """Return the micro batch and the accumulation steps for a number of ranks.

    Args:
        micro_batch_size: None: the largest power of two that divides a rank's pages, at most 32.
        pairs: whether pages are used in pairs, which a micro batch must not separate.

    Raises ConfigError naming the nearest possible settings if a division leaves a remainder.
    """
    total = global_batch_size
    if total % world_size:
        lower = total // world_size * world_size
        possible = [str(size) for size in (lower, lower + world_size) if size > 0]
        raise ConfigError(
            f"train.global_batch_size: {total} pages cannot be divided among {world_size} ranks; "
            f"the nearest possible are {' and '.join(possible)}"
        )
    share = total // world_size
    micro = micro_batch_size or min(share & -share, MAX_DEFAULT_MICRO_BATCH)
    if share % micro:
        divisors = [size for size in range(1, share + 1) if share % size == 0]
        below = max((size for size in divisors if size < micro), default=None)
        above = min((size for size in divisors if size > micro), default=None)
        nearest = " and ".join(str(size) for size in (below, above) if size)
        raise ConfigError(
            f"train.micro_batch_size: {micro} does not divide the {share} pages of a rank "
            f"(train.global_batch_size={total} on {world_size} ranks); "
            f"the nearest possible are {nearest}"
        )
    if pairs and micro % 2:
        raise ConfigError(
            f"augment.mixup_alpha: mixup needs pairs of pages, but a micro batch has {micro}; "
            "set an even train.micro_batch_size"
        )
    return Batching(total, micro, share // micro)
