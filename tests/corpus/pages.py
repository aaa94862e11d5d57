"""Bad layouts and pictures."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from shards.format.png import SIGNATURE, encode_png
from tests.corpus import TOO_DEEP, BadFile, damaged_copies, put

LEAVES = [{"b": [10 * n, 20, 30.5, 15]} for n in range(3)]
LAYOUT = {"id": "a", "label": "b", "w": 200, "h": 300, "r": {"b": [0, 0, 200, 300], "c": LEAVES}}
SIDES = {"x": 1, "y": 2, "width": 30, "height": 40}
BOUNDS = {"bounds": SIDES, "children": [{"bounds": SIDES, "children": []}]}
NODE = {"bounds": [0, 0, 1440, 2560], "children": []}
RICO = {"activity": {"root": {**NODE, "children": [NODE]}}, "activity_name": "app/a"}
GRAY = np.arange(600, dtype=np.uint8).reshape(20, 30)
TOO_MANY, TOO_LONG = 20_001, (32 << 20) + 1
NUMBERS = (None, True, "5", [], {}, float("nan"), float("inf"), -float("inf"), 1e99, 10**30)


def is_absent(value: object) -> bool:
    """Return whether a number of a box is absent: null or not finite; its node is skipped."""
    return value is None or (isinstance(value, float) and not np.isfinite(value))


def bad_layouts() -> Iterator[tuple[str, bytes]]:
    """Yield name and content of files with a single bad layout."""
    records = [[], 5, "text", None, True, {}, {"w": 1, "h": 1}, [LAYOUT]]
    for side in ("w", "h"):
        records += [put(LAYOUT, (side,), value) for value in (..., 0, -5, 40_000, *NUMBERS)]
    records.append({**LAYOUT, "w": 32_767, "h": 32_767})
    box = ("r", "c", 1, "b")
    records += [put(LAYOUT, ("r",), value) for value in (5, *NUMBERS)]
    wrong = [value for value in NUMBERS if not is_absent(value)]
    records += [put(LAYOUT, box, value) for value in ([1, 2, 3], [1, 2, 3, 4, 5], *NUMBERS[1:])]
    records += [put(LAYOUT, (*box, 2), value) for value in ([5], *wrong)]
    records += [put(LAYOUT, ("r", "c"), value) for value in ({}, "x", 5, [5], [[]], True)]
    records += [
        put(LAYOUT, (key,), [1]) for key in ("id", "label", "template", "source", "license")
    ]
    records.append(put(LAYOUT, ("id",), 10**30))
    records.append(put(put(LAYOUT, ("r", "b"), [900, 900, 9, 9]), ("r", "c"), []))  # off the canvas
    records.append(put(LAYOUT, ("r", "c"), [{"b": [1, 1, 1, 1]}] * TOO_MANY))
    records += [put(BOUNDS, ("bounds",), value) for value in (5, {}, {**SIDES, "x": "1"})]
    records += [put(BOUNDS, ("children", 0, "bounds"), value) for value in ([], "", 5)]
    records += [put(RICO, ("activity",), value) for value in (None, [], {}, {"root": 5})]
    records += [put(RICO, ("activity", "root", "bounds"), [9, 9, 1, 1])]
    frame = {"type": "FRAME", "absoluteBoundingBox": SIDES, "children": []}
    for value in (5, [], {}, {**SIDES, "x": "1"}, {**SIDES, "width": 10**6}):
        records.append({"document": {**frame, "absoluteBoundingBox": value}})
    records += [{**frame, "children": value} for value in ({}, "x", [5], [[]])]
    records += [{"document": {"type": "DOCUMENT"}}, {**frame, "visible": False}, {"nodes": {}}]
    records += [[put(SIDES, (side,), value)] for side in SIDES for value in (True, "5", [], 1e99)]
    records += [[SIDES] * TOO_MANY, {"1": {}, "2": None}, {"elements": [SIDES], "r": 5}]
    for number, record in enumerate(records):
        yield f"record-{number}.json", json.dumps(record).encode()
    text = json.dumps(LAYOUT).encode()
    for name, data in damaged_copies(text, 8):
        yield f"{name}.json", data
    yield "deep.json", b'{"r":' * TOO_DEEP + b"1" + b"}" * TOO_DEEP
    yield "lists.json", b"[" * TOO_DEEP
    yield "digits.json", b'{"w":' + b"9" * 9999 + b"}"
    yield "comma.json", text[:-1] + b",}"
    yield "quotes.json", text.replace(b'"', b"'")
    yield "twice.json", text + text
    yield "zeros.json", bytes(500)
    yield "ones.json", b"\xff" * 500
    yield "utf-16.json", json.dumps(LAYOUT).encode("utf-16")[:-1]
    yield "packed.json", gzip.compress(text)
    yield "pickle.json", pickle.dumps(LAYOUT)


def bad_dumps() -> Iterator[tuple[str, bytes]]:
    """Yield name and content of bad view hierarchies in XML."""
    view = '<node bounds="[0,0][90,80]"/>'
    whole = f'<?xml version="1.0" encoding="UTF-8"?><hierarchy>{view}</hierarchy>'
    for length in range(0, len(whole), 12):
        yield f"cut-{length}.xml", whole[:length].encode()
    entities = "".join(f'<!ENTITY b{n + 1} "&b{n};&b{n};">' for n in range(30))
    doctype = f'<!DOCTYPE a [<!ENTITY b0 "bbbbbbbbbb">{entities}]>'
    texts = {
        "bomb": f'{doctype}<hierarchy><node text="&b30;" bounds="[0,0][9,9]"/></hierarchy>',
        "file": whole.replace("<hierarchy>", '<!DOCTYPE a SYSTEM "file:///dev/zero"><hierarchy>'),
        "levels": "<hierarchy>" + "<node>" * TOO_DEEP + "</node>" * TOO_DEEP + "</hierarchy>",
        "many": whole.replace(view, view * TOO_MANY),
        "page": "<html><body/></html>",
        "empty": "",
        "no-node": whole.replace(view, ""),
        "no-area": whole.replace("[90,80]", "[0,80]"),
        "text": whole.replace("[90,80]", "[a,b]"),
        "huge": whole.replace("[90,80]", "[90000,80000]"),
        "digits": whole.replace("90", "9" * 9999),
        "codec": whole.replace("UTF-8", "rot13"),
        "layout": json.dumps(LAYOUT),
    }
    for name, text in texts.items():
        yield f"{name}.xml", text.encode()
    yield "packed.xml.gz", gzip.compress(whole.encode())[:-9]
    yield "utf-16.xml", whole.encode("utf-16")[:-1]


def bad_lines() -> Iterator[tuple[str, bytes, int]]:
    """Yield name, content and number of good layouts of bad JSON lines files."""

    def good(number: int) -> bytes:
        return json.dumps({**LAYOUT, "id": f"line-{number}", "w": 201 + number}).encode() + b"\n"

    lines = b"".join(map(good, range(5)))
    packed = gzip.compress(lines, mtime=0)
    yield "among-good.jsonl", good(1) + b"{\n" + good(2) + b"\xff\n\n[]\n" + good(3), 3
    yield "no-end.jsonl", lines[:-10], 4
    yield "empty.jsonl", b"", 0
    yield "blank.jsonl", b"\n\n  \n", 0
    yield "zeros.jsonl", bytes(1000), 0
    yield "plain.jsonl.gz", lines, 0
    yield "nothing.jsonl.gz", b"", 0
    yield "no-pages.jsonl.gz", gzip.compress(b""), 0
    yield "cut.jsonl.gz", packed[:-6], 5
    yield "head.jsonl.gz", packed[:7], 0
    yield "endless.jsonl.gz", gzip.compress(good(1) + b" " * TOO_LONG + b"\n" + good(2)), 2


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG, with its checksum."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def bad_pictures() -> Iterator[tuple[str, bytes]]:
    """Yield name and content of bad PNG files."""
    whole = encode_png(GRAY)
    for name, data in damaged_copies(whole, 15):
        yield f"{name}.png", data
    start, end = whole.index(b"IDAT") - 4, chunk(b"IEND", b"")
    rest = whole[start:]

    def head(width: int, height: int, *others: int) -> bytes:
        return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *others))

    plain = (8, 0, 0, 0, 0)
    for width, height in ((0, 20), (30, 0), (2**31, 1), (32_768, 1), (32_767, 32_767), (31, 20)):
        yield f"size-{width}-{height}.png", head(width, height, *plain) + rest
    for others in ((7, 0), (16, 3), (8, 1), (8, 5), (4, 2), (0, 0), (255, 255), (8, 3), (16, 0)):
        yield f"kind-{others[0]}-{others[1]}.png", head(30, 20, *others, 0, 0, 0) + rest
    yield "two-heads.png", whole[:start] + whole[len(SIGNATURE) : start] + rest
    yield "no-head.png", SIGNATURE + rest
    yield "no-rows.png", whole[:start] + end
    yield "moving.png", whole[:start] + chunk(b"acTL", struct.pack(">II", 2, 0)) + rest
    for name, rows in {
        "noise": b"\x55" * 80,
        "half": zlib.compress(bytes(31 * 20))[:-9],
        "filter": zlib.compress(b"\x09" * 31 * 20),
        "bomb": zlib.compress(bytes(1 << 24)),
    }.items():
        if name != "bomb":
            yield f"rows-{name}.png", whole[:start] + chunk(b"IDAT", rows) + end
        yield f"rgb-{name}.png", head(3000, 3000, 8, 2, 0, 0, 0) + chunk(b"IDAT", rows) + end
    for form in ("JPEG", "GIF", "BMP", "TIFF"):
        stream = io.BytesIO()
        Image.fromarray(GRAY).save(stream, form)
        yield f"{form}.png", stream.getvalue()
    yield "layout.png", json.dumps(LAYOUT).encode()


def write_odd_files(folder: Path) -> list[BadFile]:
    """Write pipes, broken links and files whose names are not text."""
    os.mkfifo(folder / "pipe.json")
    (folder / "nowhere.json").symlink_to(folder / "nothing")
    (folder / "loop.json").symlink_to(folder / "loop.json")
    (folder / "two\nlines.json").write_bytes(b"{")
    os.close(os.open(os.fsencode(folder) + b"/\xff\xfe.json", os.O_CREAT))
    names = ("pipe.json", "nowhere.json", "loop.json", "lines.json", ".json")
    paths = ("pipe.json", "nowhere.json", "loop.json", "two\nlines.json", "\udcff\udcfe.json")
    return [BadFile(folder / path, name) for path, name in zip(paths, names, strict=True)]
