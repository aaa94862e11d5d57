"""From the global batch, which is the setting, to what one rank feeds the model at once."""

from __future__ import annotations

from dataclasses import dataclass

from vaetrain.settings import ConfigError

LARGEST_DEFAULT = 32  # of a micro batch that was not set; memory is the user's to try beyond it


@dataclass(frozen=True)
class Batching:
    """How one optimizer step is cut: global = micro x world size x accumulation."""

    global_batch: int
    micro_batch: int
    accumulation: int


def cut_batch(
    global_batch_size: int,
    micro_batch_size: int | None,
    world_size: int,
    *,
    pairs: bool = False,
) -> Batching:
    """The micro batch and accumulation steps for this many ranks.

    Args:
        micro_batch_size: None: the largest power of two that fits.
        pairs: whether neighbouring pages must stay in one micro batch.

    Raises ConfigError, naming the nearest possible settings, where it does not come out even.
    """
    total = global_batch_size
    if total % world_size:
        lower = total // world_size * world_size
        possible = [str(size) for size in (lower, lower + world_size) if size > 0]
        raise ConfigError(
            f"train.global_batch_size: {total} pages cannot be shared by {world_size} ranks; "
            f"the nearest possible are {' and '.join(possible)}"
        )
    share = total // world_size
    micro = micro_batch_size or min(share & -share, LARGEST_DEFAULT)
    if share % micro:
        divisors = [size for size in range(1, share + 1) if share % size == 0]
        below = max((size for size in divisors if size < micro), default=None)
        above = min((size for size in divisors if size > micro), default=None)
        nearest = " and ".join(str(size) for size in (below, above) if size)
        raise ConfigError(
            f"train.micro_batch_size: {micro} does not divide the {share} pages a rank has of "
            f"train.global_batch_size={total} on {world_size} ranks; "
            f"the nearest possible are {nearest}"
        )
    if pairs and micro % 2:
        raise ConfigError(
            f"augment.mixup_alpha: mixes pairs of pages, and a micro batch of {micro} has none; "
            "train.micro_batch_size must be even"
        )
    return Batching(total, micro, share // micro)
