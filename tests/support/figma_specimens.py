"""Specimens of Figma's JSON, written from the published schema of its REST and plugin APIs.

They are not exports of real files: the fields, types and nesting are those of the documentation,
the content is made up. Each specimen has the pages expected of it: id, label, width, height, boxes.
"""

from __future__ import annotations

from itertools import count
from typing import Any

PAINT = [{"blendMode": "NORMAL", "type": "SOLID", "color": {"r": 1, "g": 1, "b": 1, "a": 1}}]
_numbers = count(1)


def rest(kind: str, name: str, box: tuple | None, *children: dict, **more: Any) -> dict:
    """Return a node of the REST API; its box is absolute."""
    node: dict[str, Any] = {"id": f"{next(_numbers)}:{len(name)}", "name": name, "type": kind}
    node |= {"scrollBehavior": "SCROLLS", "blendMode": "PASS_THROUGH"}
    bounds = None if box is None else dict(zip(("x", "y", "width", "height"), box, strict=True))
    node |= {"absoluteBoundingBox": bounds, "absoluteRenderBounds": bounds}
    node |= {"constraints": {"vertical": "TOP", "horizontal": "LEFT"}, "fills": PAINT}
    node |= {"strokes": [], "strokeWeight": 1.0, "strokeAlign": "INSIDE", "effects": []}
    if kind == "TEXT":
        node |= {"characters": name, "style": {"fontFamily": "Inter", "fontSize": 16.0}}
    elif kind in ("FRAME", "INSTANCE", "COMPONENT", "GROUP"):
        node |= {"clipsContent": False, "background": PAINT, "children": list(children)}
    elif children:
        node["children"] = list(children)
    return {**node, **more}


def canvas(name: str, *children: dict, kind: str = "CANVAS") -> dict:
    """Return a canvas or a section; a canvas has no box."""
    background = {"r": 0.12, "g": 0.12, "b": 0.12, "a": 1}
    node = {"id": f"0:{next(_numbers)}", "name": name, "type": kind, "children": list(children)}
    return node | {"backgroundColor": background, "flowStartingPoints": []}


def document(*canvases: dict) -> dict:
    """Return the root of a file."""
    return {"id": "0:0", "name": "Document", "type": "DOCUMENT", "children": list(canvases)}


def rest_file(name: str, *canvases: dict) -> dict:
    """Return the answer of `GET /v1/files/KEY`."""
    answer = {"document": document(*canvases), "components": {}, "componentSets": {}}
    answer |= {"schemaVersion": 0, "styles": {}, "name": name, "version": "5290413367"}
    return answer | {"lastModified": "2026-05-02T09:41:00Z", "role": "owner", "editorType": "figma"}


def plugin(kind: str, name: str, box: tuple, *children: dict, **more: Any) -> dict:
    """Return a node as a plugin writes its own properties; x and y are relative to the frame."""
    node: dict[str, Any] = {"id": f"{next(_numbers)}:1", "name": name, "type": kind}
    node |= dict(zip(("x", "y", "width", "height"), box, strict=True))
    node |= {"visible": True, "locked": False, "opacity": 1, "rotation": 0}
    if children:
        node["children"] = list(children)
    return {**node, **more}


def login(x: float, y: float) -> dict:
    """Return a frame of a phone with four nodes inside, at a place of its canvas."""
    button = rest("INSTANCE", "Button", (x + 16, y + 300, 361, 48), componentId="9:9")
    button["children"] = [rest("TEXT", "Log in", (x + 160, y + 312, 70, 24))]
    field = rest("RECTANGLE", "Field", (x + 16, y + 200, 361, 56))
    title = rest("TEXT", "Welcome", (x + 16, y + 100, 200, 40))
    return rest("FRAME", "Login", (x, y, 393, 852), title, field, button, clipsContent=True)


LOGIN_BOXES = [
    [0, 0, 393, 852],
    [16, 100, 216, 140],
    [16, 200, 377, 256],
    [16, 300, 377, 348],
    [160, 312, 230, 336],
]


def specimens() -> dict[str, tuple[Any, list[tuple]]]:
    """Return each specimen by name, with the label, name, size and boxes of its pages."""
    phone = (393, 852)
    whole = ("Screens", "Login", *phone, LOGIN_BOXES)
    screen = [0, 0, 393, 852]
    home = rest("FRAME", "Home", (500, 0, 393, 852), rest("RECTANGLE", "Bar", (500, 0, 393, 64)))
    home_page = ("Screens", "Home", *phone, [screen, [0, 0, 393, 64]])
    hidden = rest("FRAME", "Old", (0, 0, 100, 100), visible=False)
    clip = rest(
        "FRAME",
        "Scroll",
        (0, 100, 393, 200),
        rest("RECTANGLE", "Card", (0, 250, 393, 200)),
        rest("RECTANGLE", "Below", (0, 400, 393, 50)),
        clipsContent=True,
    )
    icon = rest("BOOLEAN_OPERATION", "Icon", (20, 20, 24, 24), booleanOperation="UNION")
    icon["children"] = [rest("ELLIPSE", "A", (20, 20, 24, 24)), rest("VECTOR", "B", (22, 22, 9, 9))]
    odd = [
        rest("LINE", "Divider", (0, 64, 393, 0)),
        rest("SLICE", "Export", (0, 0, 393, 852)),
        rest("VECTOR", "Lost", None),
        icon,
        rest("ELLIPSE", "Mask", (0, 0, 90, 90), isMask=True),
        rest("TEXT", "Faded", (10, 10, 9, 9), opacity=0),
        rest("GROUP", "Empty group", (30, 90, 0, 0), rest("TEXT", "Kept", (30, 90, 50, 20))),
    ]
    odd_boxes = [screen, [20, 20, 44, 44], [30, 90, 80, 110]]
    row = plugin("FRAME", "Row", (16, 100, 300, 60), plugin("TEXT", "Name", (8, 10, 90, 20)))
    grouped = plugin(
        "GROUP", "Header", (10, 20, 200, 50), plugin("RECTANGLE", "Logo", (10, 20, 40, 40))
    )
    plugin_page = plugin("FRAME", "Profile", (-800, 120, 360, 640), row, grouped)
    plugin_boxes = [
        [0, 0, 360, 640],
        [16, 100, 316, 160],
        [24, 110, 114, 130],
        [10, 20, 210, 70],
        [10, 20, 50, 60],
    ]
    profile = ("", "Profile", 360, 640, plugin_boxes)
    fraction = rest("FRAME", "Odd", (-1000.5, -20.25, 320.5, 568.25))
    fraction["children"] = [rest("TEXT", "Text", (-990.25, 0.5, 100.5, 20))]
    long_page = rest("FRAME", "Landing", (0, 0, 1440, 5200), clipsContent=True)
    long_page["children"] = [
        rest("FRAME", f"Part {n}", (0, 1040 * n, 1440, 1040)) for n in range(5)
    ]
    stacked = [[0, 0, 1440, 5200], *([0, 1040 * n, 1440, 1040 * n + 1040] for n in range(5))]
    note = rest("TEXT", "Note", (0, 0, 9, 9))
    component = rest("COMPONENT", "Button", (0, 0, 120, 40), rest("TEXT", "OK", (40, 10, 40, 20)))
    return {
        "a file": (rest_file("Shop", canvas("Screens", login(0, 0), home)), [whole, home_page]),
        "two canvases": (
            rest_file("Shop", canvas("Cover"), canvas("Screens", login(-3000, 250))),
            [whole],
        ),
        "sections": (
            rest_file("Shop", canvas("All", canvas("Screens", login(5, 5), kind="SECTION"))),
            [whole],
        ),
        "hidden frames and nodes": (
            rest_file("Shop", canvas("Screens", hidden, login(0, 0), {**home, "visible": False})),
            [whole],
        ),
        "clipped content": (
            rest_file("Shop", canvas("S", rest("FRAME", "Feed", (0, 0, 393, 852), clip))),
            [("S", "Feed", *phone, [screen, [0, 100, 393, 300], [0, 250, 393, 300]])],
        ),
        "nodes without area": (
            rest_file("Shop", canvas("S", rest("FRAME", "Odd", (0, 0, 393, 852), *odd))),
            [("S", "Odd", *phone, odd_boxes)],
        ),
        "answer for nodes": (
            {"name": "Shop", "nodes": {"1:2": {"document": login(70, 80)}, "1:3": None}},
            [("", *whole[1:])],
        ),
        "export of a node": (
            {"document": login(0, 9), "components": {}, "schemaVersion": 0, "styles": {}},
            [("", *whole[1:])],
        ),
        "node of a plugin": (plugin_page, [profile]),
        "selection of a plugin": ([plugin_page, plugin_page], [profile, profile]),
        "page of a plugin": (
            {"type": "PAGE", "id": "0:1", "name": "Flow", "children": [plugin_page]},
            [("Flow", *profile[1:])],
        ),
        "fractions and negative places": (
            rest_file("Shop", canvas("S", fraction)),
            [("S", "Odd", 321, 568, [[0, 0, 320.5, 568], [10.25, 20.75, 110.75, 40.75]])],
        ),
        "a long page beside parts": (
            rest_file("Site", canvas("S", long_page, component, note)),
            [("S", "Landing", 1440, 5200, stacked)],
        ),
        "a component": (component, [("", "Button", 120, 40, [[0, 0, 120, 40], [40, 10, 80, 30]])]),
    }
