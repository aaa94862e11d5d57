"""Train/val split of a build: whole groups of pages, drawn by a seeded hash of their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from shards.building.pages import Page
from shards.building.plan import seeded_hash
from shards.errors import UserError

_BY_SAMPLE = "sample"


def split_key(pages: Iterable[Page], requested: str | None) -> str:
    """Return the key to split by: the requested one, else template, else source, else sample.

    Template and source are used if any page has them. Raises `UserError` if no page has the
    requested key.
    """
    if requested == _BY_SAMPLE:
        return _BY_SAMPLE
    if requested is not None:
        if not any(page.split_key for page in pages):
            raise UserError(
                f"--split-by {requested}: no layout has the key {requested}; choose another key"
            )
        return requested
    if any(page.template for page in pages):
        return "template"
    return "source" if any(page.source for page in pages) else _BY_SAMPLE


def groups(pages: Sequence[Page], key: str, requested: str | None) -> list[str]:
    """Return the group of each page; the pages of a group are all train or all val.

    A page without the key is grouped by its template, else its source, else it is a group alone.
    """
    return [_group(page, key, requested) for page in pages]


def _group(page: Page, key: str, requested: str | None) -> str:
    if key == _BY_SAMPLE:
        return f"{_BY_SAMPLE}:{page.id}"
    if requested is not None and page.split_key:
        return f"{key}:{page.split_key}"
    if page.template:
        return f"template:{page.template}"
    return f"source:{page.source}" if page.source else f"{_BY_SAMPLE}:{page.id}"


def val_groups(group_of: Iterable[str], fraction: float, seed: int) -> set[str]:
    """Return the groups to validate on.

    Groups are visited in the order of their hash; each is chosen if it brings the share of val
    pages nearer to `fraction`. At least one group is chosen and at least one is not, if there are
    two or more and `fraction` is above 0.
    """
    sizes = Counter(group_of)
    if fraction <= 0 or len(sizes) < 2:
        return set()
    order = sorted(sizes, key=lambda group: seeded_hash(seed, "split", group))
    wanted = fraction * sizes.total()
    chosen: set[str] = set()
    count = 0
    for group in order:
        if abs(count + sizes[group] - wanted) < abs(count - wanted):
            chosen.add(group)
            count += sizes[group]
    smallest = min(order, key=sizes.__getitem__)
    if not chosen:
        return {smallest}
    return chosen - {smallest} if len(chosen) == len(sizes) else chosen
