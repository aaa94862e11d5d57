"""Options of a build, with their limits."""

from __future__ import annotations

from dataclasses import dataclass

from shards.errors import UserError
from shards.format.index import STORES
from shards.source_formats import format_choices

SPLIT_KEYS = ("template", "source", "label", "license", "viewport", "url_path", "sample")

_LIMITS = {
    "png_width": (1, 4096),
    "count": (1, 10**9),
    "shard_mb": (0.001, 1 << 20),
    "workers": (1, 1024),
    "seed": (0, (1 << 63) - 1),
}


@dataclass(frozen=True)
class BuildOptions:
    """Options of `shards.build`, named as its flags.

    format: "auto", "layout" or a format of `shards.source_formats`.
    store: one of `STORES`; None: "boxes", or "png" if all files are pictures.
    png_width: px; width of the stored pictures.
    count: largest number of inputs, in the order they are found; of a generator, pages to make.
    val_fraction: share of the pages to validate on, in [0, 1).
    split_by: one of `SPLIT_KEYS`; None: the first of template, source and sample that pages have.
    keep_duplicates: keep pages that repeat another page.
    shard_mb: MiB; shards are about equal and not much larger.
    workers: number of processes; None: one for each core.
    seed: of the split, of the order of the pages and of the generator.
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
        """Raise `UserError` naming the first option out of range and the values allowed."""
        choices = {"format": format_choices(), "store": STORES, "split_by": SPLIT_KEYS}
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise UserError(f"{flag(name)}: is {value!r}, must be one of {', '.join(allowed)}")
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"{flag(name)}: is {value}, must be in {low}..{high}")
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val-fraction: is {self.val_fraction}, must be in [0, 1)")


def flag(name: str) -> str:
    """Return the command's flag of an option."""
    return "--" + name.replace("_", "-")
