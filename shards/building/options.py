"""The options of a build."""

from __future__ import annotations

from dataclasses import dataclass

from shards.building.sources import FORMATS
from shards.errors import UserError
from shards.format.index import STORES

SPLIT_KEYS = ("template", "source", "label", "license", "viewport", "url_path", "sample")

_CHOICES = {"format": FORMATS, "store": STORES, "split_by": SPLIT_KEYS}
_LIMITS = {
    "png_width": (1, 4096),
    "count": (1, 10**9),
    "shard_mb": (0.001, 1 << 20),
    "workers": (1, 1024),
    "seed": (0, (1 << 63) - 1),
}


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    format: one of `FORMATS`.
    store: one of `STORES`; None picks "boxes", or "png" where there are only pictures.
    png_width: px; the width that pictures are stored at.
    count: at most so many inputs, in the order they are found; for the generator, how many.
    val_fraction: wanted share of the pages to validate on, in [0, 1).
    split_by: one of `SPLIT_KEYS`; None is the first of template, source and sample that is given.
    shard_mb: MiB; shards are about equal and not much larger.
    workers: processes; None is one for each core.
    """

    format: str = "auto"
    store: str | None = None
    png_width: int = 256
    count: int | None = None
    val_fraction: float = 0.1
    split_by: str | None = None
    keep_duplicates: bool = False
    shard_mb: float = 32
    workers: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise `UserError` naming the first option that is impossible, and what is allowed."""
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise UserError(f"{flag(name)}: is {value!r}, must be one of {', '.join(choices)}")
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UserError(f"{flag(name)}: is {value}, must be in {least}..{most}")
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val-fraction: is {self.val_fraction}, must be in [0, 1)")


def flag(name: str) -> str:
    """The command's flag for an option."""
    return "--" + name.replace("_", "-")
