"""Specimens of element lists, written from the published files of WebUI and from browser scripts.

They are not pages of the data set: the keys and nesting are those of its `bb.json.gz` files and of
`getBoundingClientRect`, the numbers are made up. Each specimen has its canvas, boxes and depth.
"""

from __future__ import annotations

from typing import Any

PAGE = [[0, 0, 1280, 720], [0, 0, 1280, 64], [16, 16, 116, 48], [40, 100, 640, 700]]


def element(box: list[float], **more: Any) -> dict:
    """Return an element with the box of x0, y0, x1, y1."""
    x0, y0, x1, y1 = box
    return {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, **more}


def rect(box: list[float]) -> dict:
    """Return a box as `JSON.stringify` writes a DOMRect."""
    x0, y0, x1, y1 = box
    return element(box) | {"top": y0, "right": x1, "bottom": y1, "left": x0}


def specimens() -> dict[str, tuple[Any, tuple[int, int], list[list[float]], int]]:
    """Return each specimen by name, with its canvas, boxes and depth."""
    size = (1280, 720)
    tags = ("body", "header", "a", "main")
    listed = [element(box, tag=tag) for box, tag in zip(PAGE, tags, strict=True)]
    backwards = [listed[n] for n in (2, 3, 1, 0)]
    texts = {"id": "首页", "label": "home", "template": "shop", "url": "https://example.org"}
    numbers = {str(2 + 3 * n): rect(box) for n, box in enumerate(PAGE)}
    named = [element(box, id=f"n{n}") for n, box in enumerate(PAGE)]
    for number, parent in ((1, 0), (2, 1), (3, 0)):
        named[number]["parentId"] = f"n{parent}"
    places = [element(box) for box in PAGE]
    for number, parent in ((1, 0), (2, 1), (3, 0)):
        places[number]["parent"] = parent
    floating = [element(box, parent=None) for box in PAGE]
    floating[2]["parent"] = 3  # it lies elsewhere, but names it as its parent
    circle = [element(box, id=n, parent=(n + 1) % 4) for n, box in enumerate(PAGE)]
    empty = [*listed, {**element([5, 5, 5, 90])}, {"x": None, "y": None, "width": 3, "height": 4}]
    deeper = [{"tag": tag, "rect": rect(box)} for box, tag in zip(PAGE, tags, strict=True)]
    cards = [element([20 + 300 * n, 20, 300 + 300 * n, 400]) for n in range(4)]
    card_boxes = [[20 + 300 * n, 20, 300 + 300 * n, 400] for n in range(4)]
    twice = [PAGE[0], PAGE[1], PAGE[1], PAGE[2]]
    fractions = [[0, 0, 390, 844.5], [0.25, 10.5, 389.75, 60]]
    slides = [element([1280 * n, 200, 1280 + 1280 * n, 500]) for n in range(3)]
    return {
        "a list": (listed, size, PAGE, 3),
        "a list in another order": (backwards, size, [PAGE[n] for n in (0, 1, 2, 3)], 3),
        "an object with texts": ({"elements": listed, **texts}, size, PAGE, 3),
        "a stated canvas": (
            {"elements": listed[1:], "width": 1280, "height": 720},
            size,
            PAGE[1:],
            2,
        ),
        "a stated viewport": (
            {"elements": listed, "viewport": {"width": 1280, "height": 300}},
            (1280, 300),
            [[0, 0, 1280, 300], *PAGE[1:3], [40, 100, 640, 300]],
            3,
        ),
        "boxes of WebUI by number": (numbers, size, PAGE, 3),
        "boxes of WebUI with null": ({**numbers, "98": None}, size, PAGE, 3),
        "parents by id": (named, size, PAGE, 3),
        "parents by place": (places, size, PAGE, 3),
        "a parent elsewhere": (
            [*floating],
            size,
            [PAGE[0], PAGE[1], PAGE[3], PAGE[2]],
            2,
        ),
        "parents in a circle": (circle, size, [PAGE[0], PAGE[3], PAGE[2], PAGE[1]], 4),
        "elements without area": (empty, size, PAGE, 3),
        "boxes one key deeper": ({"elements": deeper}, size, PAGE, 3),
        "cards without a page around them": (cards, (1200, 400), card_boxes, 1),
        "two equal boxes": ([element(box) for box in twice], size, twice, 4),
        "fractions": (
            [element(box) for box in fractions],
            (390, 845),
            fractions,
            2,
        ),
        "slides outside the page": (
            [*listed, *slides],
            size,
            [*PAGE, [0, 200, 1280, 500]],
            3,
        ),
    }
