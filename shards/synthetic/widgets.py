"""Widgets of synthetic pages, and the style of a design family that they follow.

Widgets are blocks (see `shards.synthetic.blocks`). All random choices are made by a `Dice`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shards.synthetic.blocks import Block, flow, grid, leaf, paragraph, row, stack

DESKTOP, MOBILE = 1280, 390  # px, the widths of a page

T = TypeVar("T")


class Dice:
    """Random choices that depend only on the key, on every platform and Python version.

    Only seeding with a string and `random()` are used, which Python guarantees not to change.
    """

    def __init__(self, *key: object):
        self._random = random.Random(":".join(map(str, key))).random

    def whole(self, low: int, high: int) -> int:
        """Return a whole number in low..high."""
        return low + int(self._random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def one_of(self, options: Sequence[T]) -> T:
        return options[int(self._random() * len(options))]

    def some(self, options: Sequence[T], low: int, high: int) -> list[T]:
        """Return low..high of the options, in their order."""
        count = min(self.whole(low, high), len(options))
        chosen = sorted(sorted(range(len(options)), key=lambda _: self._random())[:count])
        return [options[index] for index in chosen]


@dataclass(frozen=True)
class Style:
    """Style of a design family, common to the pages of one template. Sizes in px."""

    number: int
    header: str  # "bar", "tall", "double", "centered"
    footer: str  # "columns", "centered", "line"
    hero: str  # "centered", "split", "form"
    card: str  # "image", "icon", "framed", "plain"
    form_page: str  # of log-in pages: "card", "split", "page"
    sidebar: str  # "left", "right", "none"
    container: int
    gutter: int
    space: int  # above and below a section
    line: int
    control: int  # height of inputs and buttons
    columns: int  # of cards
    wrappers: int  # boxes around the content that only add a padding
    cells: bool  # blocks of a row are put into column boxes
    nested: bool  # texts of links and buttons have boxes of their own
    screen: int  # smallest height of a page

    @classmethod
    def of(cls, number: int) -> Style:
        """Return the style of family `number`, which never changes."""
        dice = Dice("family", number)
        return cls(
            number=number,
            header=dice.one_of(("bar", "bar", "tall", "double", "centered")),
            footer=dice.one_of(("columns", "columns", "centered", "line")),
            hero=dice.one_of(("centered", "split", "form")),
            card=dice.one_of(("image", "icon", "framed", "plain")),
            form_page=dice.one_of(("card", "card", "split", "page")),
            sidebar=dice.one_of(("left", "left", "right", "none")),
            container=dice.one_of((960, 1080, 1140, 1140, 1200, 1240)),
            gutter=dice.one_of((12, 16, 20, 24, 30, 30)),
            space=dice.whole(3, 10) * 8,
            line=dice.whole(19, 28),
            control=dice.whole(16, 26) * 2,
            columns=dice.one_of((2, 3, 3, 4, 4)),
            wrappers=dice.whole(0, 3),
            cells=dice.chance(0.65),
            nested=dice.chance(0.5),
            screen=dice.one_of((600, 720, 800, 800, 844, 900)),
        )


class Kit:
    """The widgets of one page, in the style of its family."""

    def __init__(self, style: Style, dice: Dice, mobile: bool):
        self.style, self.dice, self.mobile = style, dice, mobile
        self.edge = 16 if mobile else style.gutter

    # Single widgets.

    def text(self, low: int, high: int, kind: str = "text") -> Block:
        """Return running text of low..high characters."""
        return paragraph(self.dice.whole(low, high), self.style.line, kind)

    def heading(self, level: int = 2) -> Block:
        """Return a heading; level 1 is the largest."""
        line = self.style.line * (9 - level) // 4
        return paragraph(
            self.dice.whole(8, 26), line if not self.mobile else line * 4 // 5, "heading"
        )

    def icon(self, size: int = 24) -> Block:
        return leaf("icon", size, size)

    def link(self, with_icon: bool = False) -> Block:
        """Return a link of one or two words, optionally with an icon before it."""
        words = self.text(5, 14)
        if with_icon:
            return flow(self.icon(18), words, gap=8, kind="link", shrink=True)
        return self._labelled(words, (2, 4), "link")

    def button(self) -> Block:
        pad = (self.style.control - self.style.line) // 2
        return self._labelled(self.text(6, 14), (max(2, pad), 20), "button")

    def _labelled(self, words: Block, pad: tuple[int, int], kind: str) -> Block:
        """Return a small box around its words, which have a box of their own in nested styles."""
        whole = stack(words, pad=pad, kind=kind, shrink=True)
        if self.style.nested:
            return whole

        def lay_out(room: int):
            box = whole(room)
            box.children.clear()
            return box

        return lay_out

    def field(self, height: int | None = None, kind: str = "input") -> Block:
        """Return a label above its input."""
        control = leaf(kind, height or self.style.control)
        return stack(self.text(6, 14, "label"), control, gap=6, kind="row")

    def choice(self) -> Block:
        """Return a checkbox with its label."""
        return flow(leaf("checkbox", 16, 16), self.text(10, 22, "label"), gap=8, kind="item")

    def links(self, count: int, with_icons: bool = False) -> Block:
        """Return a vertical list of links."""
        gap = self.style.line // 3
        items = [stack(self.link(with_icons), kind="item") for _ in range(count)]
        return stack(*items, gap=gap, kind="list")

    def inline_links(self, count: int) -> Block:
        """Return a horizontal list of links."""
        items = [stack(self.link(), pad=(4, 6), kind="item", shrink=True) for _ in range(count)]
        return flow(*items, gap=8, kind="list", shrink=True)

    def icons(self, count: int) -> Block:
        """Return a horizontal list of linked icons."""
        items = [stack(self.icon(20), pad=(8, 8), kind="link", shrink=True) for _ in range(count)]
        return flow(*items, gap=6, kind="list", shrink=True)

    # Arrangements.

    def side_by_side(self, *blocks: Block, shares: Sequence[int] = ()) -> Block:
        """Return blocks in one row; below each other on a phone."""
        if self.mobile:
            return stack(*blocks, gap=self.edge)
        if self.style.cells:
            half = self.style.gutter // 2
            return row(*(stack(block, pad=(0, half)) for block in blocks), shares=shares)
        return row(*blocks, shares=shares, gap=self.style.gutter)

    def tiles(self, blocks: Sequence[Block], columns: int | None = None) -> Block:
        """Return blocks in a grid of the style's number of columns; on a phone in one or two."""
        columns = columns or self.style.columns
        columns = (1 if columns < 5 else 2) if self.mobile else columns
        if self.style.cells:
            blocks = [stack(block, pad=(0, self.style.gutter // 2)) for block in blocks]
            return stack(*(self._line(blocks, columns)), gap=self.style.gutter)
        return grid(blocks, columns, self.edge)

    def _line(self, blocks: Sequence[Block], columns: int) -> list[Block]:
        shares = (1,) * columns
        starts = range(0, len(blocks), columns)
        return [row(*blocks[start : start + columns], shares=shares) for start in starts]

    def many(self, low: int, high: int, make: Callable[[], Block]) -> list[Block]:
        """Return low..high blocks of one kind; fewer on a phone, where they are tall."""
        count = self.dice.whole(low, high)
        return [make() for _ in range(min(count, max(low, 4)) if self.mobile else count)]

    def wrap(self, block: Block) -> Block:
        """Return a block in as many padding boxes as the style has."""
        for _ in range(self.style.wrappers):
            block = stack(block, pad=(4, 0))
        return block
