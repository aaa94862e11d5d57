"""Damaged and malicious shards."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shards.format.index import RECORD, header_bytes
from shards.format.png import encode_png
from tests.corpus import TOO_DEEP, BadFile, damaged_copies
from tests.corpus.pages import GRAY


def npy(boxes: np.ndarray) -> bytes:
    """Return an array in the npy format, pickled if it holds objects."""
    stream = io.BytesIO()
    np.save(stream, boxes, allow_pickle=True)
    return stream.getvalue()


BOXES = np.array([[0, 0, 200, 300], [10, 20, 40, 35]], np.int16)
METADATA = {"id": "a", "label": "other", "w": 200, "h": 300, "n": 2, "depth": 2}


def write_with_checksums(
    folder: Path, tar: bytes, header: dict[str, Any], row: dict[str, int]
) -> None:
    """Write shards of one sample, valid or not, with an index whose checksums are right."""
    folder.mkdir()
    (folder / "train-000000.tar").write_bytes(tar)
    rows = np.zeros(1, RECORD)
    whole = {"blocks": len(tar) // 512 - 2, "width": 200, "height": 300, "boxes": 2}
    for key, value in (whole | row).items():
        rows[key] = value
    (folder / "index.bin").write_bytes(rows.tobytes())
    digest = hashlib.sha256(tar).hexdigest()
    shard = {"name": "train-000000.tar", "split": "train", "samples": 1, "bytes": len(tar)}
    plain = {"schema": 2, "store": "boxes", "png_width": None, "samples": 1, "labels": ["other"]}
    plain |= {"templates": [""], "shards": [{**shard, "sha256": digest}]}
    plain["table_sha256"] = hashlib.sha256(rows.tobytes()).hexdigest()
    changed = {key: value for key, value in (plain | header).items() if value is not ...}
    (folder / "index.json").write_bytes(header_bytes(changed))
    (folder / "rejects.jsonl").write_bytes(b"")


def tar_of(*members: tuple[str, bytes, bytes]) -> bytes:
    """Return a plain tar of members, each given by name, content and type."""
    stream = io.BytesIO()
    for name, content, kind in members:
        info = tarfile.TarInfo(name)
        info.size, info.type = len(content), kind
        if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info.linkname = "/etc/passwd"
        stream.write(info.tobuf(tarfile.USTAR_FORMAT))
        stream.write(content + bytes(-len(content) % 512))
    return stream.getvalue() + bytes(1024)


def sample(name: str, content: bytes, kind: bytes = tarfile.REGTYPE, json_name: str = "a.json"):
    """Return the tar of a sample with the given member in place of its boxes."""
    return tar_of(
        (json_name, json.dumps(METADATA).encode(), tarfile.REGTYPE), (name, content, kind)
    )


def write_bad_shards(folder: Path, whole: Path) -> Iterator[BadFile]:
    """Yield folders of bad shards; some are damaged copies of the valid shards `whole`."""

    def with_checksums(name: str, tar: bytes, header: dict | None = None, **row: int) -> BadFile:
        write_with_checksums(folder / name, tar, header or {}, row)
        return BadFile(folder / name, name)

    good = sample("a.boxes.npy", npy(BOXES))
    kinds = {"link": b"2", "hard-link": b"1", "device": b"3", "disk": b"4", "folder": b"5"}
    kinds |= {"pipe": b"6", "pax": b"x", "global-pax": b"g", "long-name": b"L", "sparse": b"S"}
    for name, kind in kinds.items():
        yield with_checksums(f"type-{name}", sample("a.boxes.npy", npy(BOXES), kind))
    for number, name in enumerate(
        (
            "/etc/a.boxes.npy",
            "../a.boxes.npy",
            "a/../b.boxes.npy",
            "",
            ".boxes.npy",
            "./a.boxes.npy",
            f"../{'a' * 99}/a.boxes.npy",  # the `..` is in the prefix field
        )
    ):
        yield with_checksums(f"name-{number}", sample(name, npy(BOXES)))
    yield with_checksums("name-json", sample("a.boxes.npy", npy(BOXES), json_name="/a.json"))
    yield with_checksums("name-escape", sample("\x1b[2J.boxes.npy", npy(BOXES)))
    yield with_checksums(
        "label-escape", sample("a.boxes.npy", npy(BOXES)), {"labels": ["\x1b[2J\n"]}
    )
    yield with_checksums("two-keys", sample("b.boxes.npy", npy(BOXES)))
    arrays = {
        "objects": np.array([[{}] * 4], object),
        "columns": np.zeros((2, 5), np.int16),
        "flat": np.zeros(8, np.int16),
        "double": BOXES.astype(np.float64),
        "big-endian": BOXES.astype(">i2"),
        "text": np.array([["a"] * 4]),
        "nan": np.full((2, 4), np.nan, np.float32),
        "infinite": np.full((2, 4), np.inf, np.float32),
        "inverted": BOXES[:, ::-1].copy(),
        "outside": BOXES + np.int16(20_000),
        "fewer": BOXES[:1],
        "none": BOXES[:0],
    }
    for name, boxes in arrays.items():
        yield with_checksums(f"boxes-{name}", sample("a.boxes.npy", npy(boxes)))
    yield with_checksums("boxes-cut", sample("a.boxes.npy", npy(BOXES)[:-3]))
    yield with_checksums("boxes-pickle", sample("a.boxes.npy", pickle.dumps(BOXES)))
    yield with_checksums("boxes-picture", sample("a.png", encode_png(GRAY)))
    picture = sample("a.png", encode_png(GRAY)[:-20])
    yield with_checksums("picture-cut", picture, {"store": "png", "png_width": 30}, boxes=0)
    tall = sample("a.png", encode_png(GRAY))
    yield with_checksums(
        "picture-tall", tall, {"store": "png", "png_width": 30}, width=1, height=65_535
    )
    for number, content in enumerate((b"", b"[]", b"{}", b"\xff", b"[" * TOO_DEEP)):
        regular = tarfile.REGTYPE
        tar = tar_of(("a.json", content, regular), ("a.boxes.npy", npy(BOXES), regular))
        yield with_checksums(f"json-{number}", tar)
    for key, value in {
        "offset": 1 << 31, "blocks": 0, "width": 0, "height": 0, "label": 9,
        "template": 9, "boxes": 3,
    }.items():  # fmt: skip
        yield with_checksums(f"row-{key}", good, **{key: value})
    entry = {"name": "train-000000.tar", "split": "train", "samples": 1, "bytes": 1}
    entry["sha256"] = "0" * 64
    for key, values in {
        "schema": (..., 1, "2"), "store": (..., "pickle", None), "png_width": (0, -1, "5", True),
        "samples": (..., 2, "1"), "labels": (..., 5, [5], []), "templates": (..., [None], []),
        "shards": (
            ..., [], {}, [5], [{}], [entry], [{**entry, "name": "../x.tar"}],
            [{**entry, "samples": -1}], [{**entry, "more": 1}], [{**entry, "name": 5}],
            [{**entry, "bytes": -1}], [{**entry, "sha256": "../../a"}],
        ),
        "table_sha256": (..., "0" * 64, 5, "`<script>"),
    }.items():  # fmt: skip
        for number, value in enumerate(values):
            yield with_checksums(f"header-{key}-{number}", good, {key: value})

    for name in ("index.json", "index.bin", "train-000000.tar"):
        data = (whole / name).read_bytes()
        for damage, changed in [*damaged_copies(data, 5), ("longer", data + b"\0")]:
            copy = shutil.copytree(whole, folder / f"{name}-{damage}")
            (copy / name).write_bytes(changed)
            yield BadFile(copy, name)
        copy = shutil.copytree(whole, folder / f"{name}-missing")
        (copy / name).unlink()
        yield BadFile(copy, name)
