"""Layout algebra of the synthetic pages.

A *block* is a function of the available width in px (`room`) that returns its `Box`, so the same
block is laid out for a desktop column and for a phone. `stack`, `row`, `flow` and `grid` make
blocks of blocks, like the block, flex, inline and grid layouts of a browser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass
class Box:
    """A rectangle and its children, (x, y, box) in px from its top left corner."""

    width: int
    height: int
    kind: str | None = None
    children: list[tuple[int, int, Box]] = field(default_factory=list)


Block = Callable[[int], Box]


def leaf(kind: str | None, height: int, width: int | None = None) -> Block:
    """Return an empty box of this height; as wide as the room unless `width` is given and fits."""
    return lambda room: Box(min(width or room, room), height, kind)


def picture(ratio: float, kind: str = "image") -> Block:
    """Return an empty box as wide as the room and `ratio` times as high."""
    return lambda room: Box(room, max(1, int(room * ratio)), kind)


def paragraph(characters: int, line: int, kind: str = "text") -> Block:
    """Return running text in lines `line` px high; a single line is as wide as its letters."""
    length = characters * line * 2 // 5  # a letter is about 0.4 times as wide as its line is high
    return lambda room: Box(min(length, room), line * -(-length // room), kind)


def stack(
    *blocks: Block,
    gap: int = 0,
    pad: tuple[int, int] = (0, 0),
    kind: str | None = None,
    center: bool = False,
    shrink: bool = False,
    max_width: int | None = None,
) -> Block:
    """Return blocks below each other.

    gap: px between them. pad: (vertical, horizontal) px around them. center: horizontally, else
    left. shrink: as wide as the widest block, else as the room. max_width: largest width in px.
    """

    def lay_out(room: int) -> Box:
        room = min(room, max_width or room)
        boxes = [block(max(1, room - 2 * pad[1])) for block in blocks]
        widest = max((box.width for box in boxes), default=0)
        outer = widest + 2 * pad[1] if shrink else room
        children, y = [], pad[0]
        for box in boxes:
            children.append(((outer - box.width) // 2 if center else pad[1], y, box))
            y += box.height + gap
        height = y - (gap if boxes else 0) + pad[0]
        return Box(outer, max(1, height), kind, children)

    return lay_out


def row(
    *blocks: Block,
    shares: Sequence[int] = (),
    gap: int = 0,
    pad: tuple[int, int] = (0, 0),
    kind: str | None = None,
) -> Block:
    """Return blocks side by side, stretched to one height.

    The room is divided by `shares`, else evenly; shares without a block stay empty.
    """
    parts = shares or (1,) * len(blocks)

    def lay_out(room: int) -> Box:
        inner = room - 2 * pad[1] - gap * (len(parts) - 1)
        widths = [max(1, inner * part // sum(parts)) for part in parts]
        boxes = [block(width) for block, width in zip(blocks, widths, strict=False)]
        height = max(box.height for box in boxes)
        children, x = [], pad[1]
        for box, width in zip(boxes, widths, strict=False):
            box.height = height
            children.append((x, pad[0], box))
            x += width + gap
        return Box(room, height + 2 * pad[0], kind, children)

    return lay_out


def flow(
    *blocks: Block,
    gap: int = 0,
    pad: tuple[int, int] = (0, 0),
    kind: str | None = None,
    align: str = "left",
    shrink: bool = False,
) -> Block:
    """Return blocks of their own widths on one line, and on further lines if they do not fit.

    align: "left", "center", "right", or "between" (the space between the blocks is spread).
    """

    def lay_out(room: int) -> Box:
        inner = max(1, room - 2 * pad[1])
        lines = _lines([block(inner) for block in blocks], inner, gap)
        if shrink:
            inner = max(_length(line, gap) for line in lines)
        children, y = [], pad[0]
        for line in lines:
            height = max(box.height for box in line)
            spare = inner - _length(line, gap)
            x = pad[1] + {"center": spare // 2, "right": spare}.get(align, 0)
            step = gap + (spare // max(1, len(line) - 1) if align == "between" else 0)
            for box in line:
                children.append((x, y + (height - box.height) // 2, box))
                x += box.width + step
            y += height + gap
        return Box(inner + 2 * pad[1], y - gap + pad[0], kind, children)

    return lay_out


def grid(blocks: Sequence[Block], columns: int, gap: int = 0) -> Block:
    """Return blocks in rows of `columns` equal cells; the last row may be incomplete."""
    rows = [blocks[start : start + columns] for start in range(0, len(blocks), columns)]
    return stack(*(row(*cells, shares=(1,) * columns, gap=gap) for cells in rows), gap=gap)


def middle(block: Block, height: int, kind: str | None = None) -> Block:
    """Return a block centred in a box at least `height` px high and as wide as the room."""

    def lay_out(room: int) -> Box:
        box = block(room)
        tall = max(height, box.height)
        return Box(room, tall, kind, [((room - box.width) // 2, (tall - box.height) // 2, box)])

    return lay_out


def cut(box: Box, height: int) -> Box:
    """Return the first `height` px of a box."""
    kept = [(x, y, cut(child, height - y)) for x, y, child in box.children if y < height]
    return Box(box.width, min(box.height, height), box.kind, kept)


def tree(box: Box, x: int = 0, y: int = 0) -> dict:
    """Return a box as a node of the compact schema, with `kind` as "t"."""
    node: dict = {"b": [x, y, box.width, box.height]}
    if box.kind:
        node["t"] = box.kind
    children = [tree(child, left, top) for left, top, child in _visible(box)]
    if children:
        node["c"] = children
    return node


def _visible(box: Box) -> Iterator[tuple[int, int, Box]]:
    """Yield the children of a box; as in captured pages, one that covers it is merged into it."""
    for x, y, child in box.children:
        if (child.width, child.height) == (box.width, box.height):
            yield from _visible(child)
        else:
            yield x, y, child


def _lines(boxes: list[Box], room: int, gap: int) -> list[list[Box]]:
    lines: list[list[Box]] = [[]]
    for box in boxes:
        if lines[-1] and _length([*lines[-1], box], gap) > room:
            lines.append([])
        lines[-1].append(box)
    return lines


def _length(line: list[Box], gap: int) -> int:
    return sum(box.width for box in line) + gap * (len(line) - 1)
