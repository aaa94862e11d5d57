"""Layouts as SVG pictures, in which nested boxes can be seen."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from shards.errors import one_line

_SCALE = 4  # displayed size of a pixel of the page
_STYLE = "rect{fill:#1f5fbf;fill-opacity:.08;stroke:#1f5fbf;stroke-width:.25}"


def svg_of(record: dict[str, Any]) -> str:
    """Return a record of `layout_record` as an SVG file; deeper boxes are darker.

    The id is the title. Characters that XML does not allow are written as escapes.
    """
    width, height = record["w"], record["h"]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{_SCALE * width}" height="{_SCALE * height}">',
        f"<title>{escape(one_line(str(record.get('id', ''))))}</title>",
        f"<style>{_STYLE}</style>",
    ]
    stack = [(record["r"], 0.0, 0.0)]
    while stack:
        node, left, top = stack.pop()
        if "b" in node:
            x, y, across, down = node["b"]
            left, top = left + x, top + y
            place = f'x="{left:.6g}" y="{top:.6g}" width="{across:g}" height="{down:g}"'
            lines.append(f"<rect {place}/>")
        stack += [(child, left, top) for child in reversed(node.get("c", []))]
    return "\n".join([*lines, "</svg>", ""])
