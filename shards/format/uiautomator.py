"""View hierarchies of Android in XML, as `uiautomator dump` and Appium write them.

    <hierarchy><node class="..." package="..." bounds="[x0,y0][x1,y1]">...</node></hierarchy>

Any element with `bounds` is a node; Appium names elements by their class. Coordinates are absolute
px of the screen. Files are untrusted: a document type, and so every entity, is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any
from xml.parsers import expat

from shards.format.box_tree import (
    NO_BOX,
    canvas_size,
    clipped,
    has_area,
    layout_of_tree,
    number_or_nan,
)
from shards.format.layout import MAX_BOXES, BadLayout, Layout, describe_value
from shards.format.text import encoding_of
from shards.source_formats import register_file_format

MAX_LEVELS = 2000  # nested elements; real dumps have at most about a hundred

_NUMBER = r"(-?\d{1,12}(?:\.\d{1,12})?)"
_BOUNDS = re.compile(rf"\s*\[{_NUMBER},\s*{_NUMBER}\]\s*\[{_NUMBER},\s*{_NUMBER}\]\s*")
_ENCODING = re.compile(rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_STARTS = ("<?xml", "<hierarchy", "<displays")
_FALSE = "false"


@register_file_format(
    "uiautomator",
    suffixes=(".xml", ".uix", ".xml.gz"),
    signature=(b"<?xml", b"\xef\xbb\xbf<?xml", b"<hierarchy", b"<displays"),
)
def parse_uiautomator(data: bytes) -> Layout:
    """Return the layout of a dump of a screen; views that are not displayed are left out.

    The canvas is the size that the hierarchy states, else it reaches from (0, 0) to the right and
    lower edge of the windows. Boxes are clipped to the canvas and to the scrolled views around
    them. The template is the package of most views, the app. Raises `BadLayout` for anything but
    such a dump.
    """
    root = _parsed(_document(data))
    windows = [node["box"] for node in root["children"] if has_area(node["box"] or NO_BOX)]
    width, height = (_stated(root, name) for name in ("width", "height"))
    if width is None or height is None:
        if not windows:
            raise BadLayout("no window has an area")
        width, height = max(box[2] for box in windows), max(box[3] for box in windows)
    packages = root["packages"].most_common(1)
    template = packages[0][0] if packages else ""
    return layout_of_tree(
        {"template": template},
        root,
        read_box=lambda node, x, y: node["box"],
        children_key="children",
        canvas=canvas_size(width, height),
        is_root_a_node=False,
    )


def _document(data: bytes) -> str:
    """Return the text of the document, without the lines that a shell prints around it."""
    codec, mark = encoding_of(data)
    declared = _ENCODING.search(data[:1000])
    if not mark and codec == "utf-8" and declared is not None:
        codec = declared[1].decode()
    try:
        text = data[len(mark) :].decode(codec)
    except (UnicodeDecodeError, LookupError):
        raise BadLayout(f"not {codec.upper()} text") from None
    starts = [place for start in _STARTS if (place := text.find(start)) >= 0]
    # `adb exec-out uiautomator dump /dev/tty` prints a line behind the document, and some devices
    # print warnings before it.
    return text[min(starts, default=0) : text.rfind(">") + 1]


def _parsed(text: str) -> dict:
    """Return the hierarchy as one node without a box, its children the windows."""
    root: dict[str, Any] = {"children": [], "box": NO_BOX, "width": None, "height": None}
    root["packages"] = Counter()
    parents, count = [root], 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        if len(parents) == 1 and not _is_hierarchy(name, attributes):
            raise BadLayout(f"not a view hierarchy of uiautomator: its root is <{name[:40]}>")
        if name == "hierarchy":
            root.update({key: attributes.get(key) for key in ("width", "height")})
        if "bounds" not in attributes and name not in ("node", "window"):
            parents.append(parents[-1])  # for example <hierarchy>: its children take its place
        else:
            count += 1
            if count > MAX_BOXES:
                raise BadLayout(f"more than {MAX_BOXES} boxes")
            node = _node(count, attributes, parents[-1])
            if attributes.get("package"):
                root["packages"][attributes["package"]] += 1
            parents[-1]["children"].append(node)
            parents.append(node)
        if len(parents) > MAX_LEVELS:
            raise BadLayout(f"nested deeper than {MAX_LEVELS} levels")

    def refuse(*_: object) -> None:
        raise BadLayout("has a document type or entities, which are not read")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda name: parents.pop()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise BadLayout(f"damaged or truncated XML: {expat.ErrorString(error.code)}") from None
    except UnicodeEncodeError:
        raise BadLayout("not a text of Unicode") from None
    return root


def _is_hierarchy(name: str, attributes: dict[str, str]) -> bool:
    return name in ("hierarchy", "hierarchies", "displays", "node") or "bounds" in attributes


def _node(number: int, attributes: dict[str, str], parent: dict) -> dict:
    """Return the node of an element: its box clipped to scrolled views, and its visibility."""
    text = attributes.get("bounds")
    if not text:
        box = NO_BOX
    elif (match := _BOUNDS.fullmatch(text)) is None:
        bounds = describe_value(text)
        raise BadLayout(f"box {number}: bounds is {bounds}, must be [x0,y0][x1,y1]")
    else:
        x0, y0, x1, y1 = (number_or_nan("bounds", float(side)) for side in match.groups())
        box = (x0, y0, x1, y1)
    clip = parent.get("clip")
    box = clipped(box, clip)
    is_scrolled = attributes.get("scrollable") == "true" and has_area(box)
    if _FALSE in (attributes.get("visible-to-user"), attributes.get("displayed")):
        return {"children": [], "box": None, "clip": clip}
    return {"children": [], "box": box, "clip": box if is_scrolled else clip}


def _stated(root: dict, name: str) -> float | None:
    """Return the width or height that the hierarchy states, or None."""
    text = root[name]
    return float(text) if text and re.fullmatch(r"\d{1,6}", text) and int(text) else None
