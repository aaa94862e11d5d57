"""Untrusted files: each is read, or refused in one line that names the fault."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import DamagedShards
from shards.format.index import HEADER_NAME, RECORD, TABLE_NAME, header_bytes
from shards.format.jpeg import decode_jpeg
from shards.format.json_text import decode_json
from shards.format.layout import MAX_SIDE, BadLayout, Layout, parse_layouts
from shards.format.png import decode_png, encode_png
from shards.format.tar import read_boxes, read_members
from shards.format.uiautomator import parse_uiautomator
from shards.open import open_index
from shards.reading.collator import Collator
from shards.reading.selection import select
from shards.reading.shard_files import ShardFiles
from shards.verify import find_damage
from tests.support import uiautomator_specimens
from tests.support.damage import TREES, damaged, mutated

LEAVES = [{"b": [10 * n, 20, 30.5, 15]} for n in range(3)]
COMPACT = {"id": "a", "label": "b", "w": 200, "h": 300, "r": {"b": [0, 0, 200, 300], "c": LEAVES}}
SIDES = {"x": 1, "y": 2, "width": 30, "height": 40}
BOUNDS = {"bounds": SIDES, "children": [{"bounds": SIDES, "children": []}, None]}
NODE = {"bounds": [0, 0, 1440, 2560], "visibility": "visible", "children": [None]}
RICO = {"activity": {"root": {**NODE, "children": [NODE, NODE]}}, "activity_name": "app/a"}
FRAME = {"type": "FRAME", "absoluteBoundingBox": {**SIDES}, "children": [], "clipsContent": True}
TEXT = {"type": "TEXT", "x": 1, "y": 2, "width": 3, "height": 4, "visible": True}
GROUP = {"type": "GROUP", "children": [TEXT, FRAME], "opacity": 1}
FILE = {"type": "CANVAS", "name": "c", "children": [{**FRAME, "children": [GROUP, None]}]}
FIGMA = {"name": "f", "document": {"type": "DOCUMENT", "children": [FILE]}}
ELEMENTS = [{**SIDES, "id": n, "parent": n - 1} for n in range(3)]
LISTED = {"elements": [*ELEMENTS, {"rect": SIDES}], "width": 90, "height": 80, "label": "a"}
BY_NUMBER = {"1": SIDES, "2": None, "3": {**SIDES, "x": 4.5}}
LAYOUTS = [COMPACT, BOUNDS, RICO, FIGMA, ELEMENTS, LISTED, BY_NUMBER]
DUMPS = [uiautomator_specimens.specimens()[name][0] for name in ("a screen", "all windows")]
GRAY = np.arange(600, dtype=np.uint8).reshape(20, 30)
STREAM = io.BytesIO()
Image.fromarray(GRAY).save(STREAM, "JPEG")
JPEG = STREAM.getvalue()


@contextmanager
def only(refusal: type[ValueError]) -> Iterator[None]:
    """Fail if another exception is raised, or this one with more than one line."""
    try:
        yield
    except refusal as error:
        lines = str(error).splitlines()
    else:
        lines = ["no error"]
    assert len(lines) == 1


def check_layout(record: object) -> None:
    """Assert that a record is refused, or parsed into a valid layout."""
    with only(BadLayout):
        for page in parse_layouts(record):
            with only(BadLayout):
                check_page(page)


def check_page(layout: Layout | BadLayout) -> None:
    """Raise the refusal of a page, or assert that it is a valid layout."""
    if isinstance(layout, BadLayout):
        raise layout
    assert 1 <= layout.width <= MAX_SIDE
    assert 1 <= layout.height <= MAX_SIDE
    assert layout.boxes.dtype in (np.int16, np.float32)
    x0, y0, x1, y1 = layout.boxes.T
    assert len(layout.boxes) > 0
    assert ((x0 >= 0) & (x1 > x0) & (x1 <= layout.width)).all()
    assert ((y0 >= 0) & (y1 > y0) & (y1 <= layout.height)).all()
    assert layout.depth >= 1
    json.dumps(layout.meta).encode()


@given(st.one_of([mutated(layout) for layout in LAYOUTS]))
def test_mutated_layouts_are_refused_or_valid(record):
    check_layout(record)


@given(TREES | st.fixed_dictionaries({"w": TREES, "h": TREES, "r": TREES}))
def test_random_trees_are_refused_or_valid_layouts(record):
    check_layout(record)


@given(st.one_of([damaged(json.dumps(layout).encode()) for layout in LAYOUTS]) | st.binary())
def test_damaged_json_is_refused_or_a_valid_layout(data):
    with only(BadLayout):
        check_layout(decode_json(data))


@given(damaged(encode_png(GRAY)) | st.binary())
def test_damaged_pictures_are_refused_or_gray(data):
    with only(BadLayout):
        gray = decode_png(data)
        assert gray.dtype == np.uint8
        assert gray.ndim == 2


@given(damaged(JPEG) | st.binary())
def test_damaged_jpegs_are_refused_or_gray(data):
    with only(BadLayout):
        gray = decode_jpeg(data)
        assert gray.dtype == np.uint8
        assert gray.ndim == 2


@given(st.one_of([damaged(dump) for dump in DUMPS]) | st.binary() | st.text().map(str.encode))
def test_damaged_dumps_are_refused_or_a_valid_layout(data):
    with only(BadLayout):
        check_page(parse_uiautomator(data))


def build_whole(source: Path) -> Path:
    """Build shards that store boxes and pictures in an empty folder; return their folder."""
    records = [json.dumps({**COMPACT, "id": f"p{n}", "w": 200 + n}) for n in range(6)]
    (source / "pages.jsonl").write_text("\n".join(records))
    options = BuildOptions(store="both", png_width=16, workers=1, keep_duplicates=True)
    build([source / "pages.jsonl"], source / "shards", options)
    return source / "shards"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Return undamaged shards."""
    return build_whole(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def folder(whole, tmp_path_factory) -> Path:
    """Return a copy of the shards that tests may damage."""
    return shutil.copytree(whole, tmp_path_factory.mktemp("hostile") / "shards")


def read_all(folder: Path) -> None:
    """Open shards and read everything in them, as training and the commands do."""
    index = open_index(folder)
    files = ShardFiles(index)
    collator = Collator(files, width=32, max_height=64, ladder=np.array([64]), seed=0)
    for split in ("train", "val"):
        pages = select(index, split, width=32, max_height=64, val_templates=["a"])
        pages.heights_at(np.arange(len(pages)))
    for number in range(len(index)):
        files.names(number)
        batch = collator.batch(np.array([number]), np.array([0]), training=True)
        assert batch.images().isfinite().all()


def check_damage(whole: Path, folder: Path, name: str, data: bytes) -> None:
    """Check that reading refuses in one line and that verify finds any difference."""
    (folder / name).write_bytes(data)
    with only(DamagedShards):
        read_all(folder)
    problems = list(find_damage(folder))
    assert all(len(problem.splitlines()) == 1 for problem in problems)
    assert bool(problems) == (data != (whole / name).read_bytes())
    shutil.copy(whole / name, folder / name)


@given(data=st.data())
def test_damaged_index_header_is_refused(whole, folder, data):
    changed = data.draw(damaged((whole / HEADER_NAME).read_bytes()))
    check_damage(whole, folder, HEADER_NAME, changed)


@given(data=st.data())
def test_resigned_index_header_is_refused_or_read(whole, folder, data):
    header = json.loads((whole / HEADER_NAME).read_bytes())
    mutant = data.draw(mutated(header))
    if isinstance(mutant, dict):
        (folder / HEADER_NAME).write_bytes(header_bytes(mutant))
        with only(DamagedShards):
            read_all(folder)
        assert all(len(problem.splitlines()) == 1 for problem in find_damage(folder))
    shutil.copy(whole / HEADER_NAME, folder / HEADER_NAME)


@given(data=st.data())
def test_damaged_index_table_is_refused(whole, folder, data):
    table = np.fromfile(whole / TABLE_NAME, np.uint8)
    place, value = data.draw(st.integers(0, len(table) - 1)), data.draw(st.integers(0, 255))
    table[place] = value
    check_damage(whole, folder, TABLE_NAME, table.tobytes())


@given(data=st.data())
def test_damaged_shard_is_refused(whole, folder, data):
    name = next(path.name for path in sorted(whole.glob("train-*.tar")))
    check_damage(whole, folder, name, data.draw(damaged((whole / name).read_bytes())))


@given(data=st.data())
def test_resigned_shard_is_refused_or_read(whole, folder, data):
    header = json.loads((whole / HEADER_NAME).read_bytes())
    entry = next(entry for entry in header["shards"] if entry["split"] == "train")
    changed = data.draw(damaged((whole / entry["name"]).read_bytes()))
    entry |= {"bytes": len(changed), "sha256": hashlib.sha256(changed).hexdigest()}
    (folder / entry["name"]).write_bytes(changed)
    (folder / HEADER_NAME).write_bytes(header_bytes(header))
    with only(DamagedShards):
        read_all(folder)
    assert all(len(problem.splitlines()) == 1 for problem in find_damage(folder))
    for name in (entry["name"], HEADER_NAME):
        shutil.copy(whole / name, folder / name)


@given(data=st.data())
def test_damaged_sample_bytes_are_refused_or_split_into_members(whole, data):
    path = next(iter(sorted(whole.glob("train-*.tar"))))
    changed = data.draw(damaged(path.read_bytes()[:4096]))
    with only(DamagedShards):
        for key, extension, content in read_members(changed, path):
            assert isinstance(key + extension, str)
            assert len(content) <= len(changed)


@given(data=st.data())
def test_damaged_boxes_are_refused_or_an_array(whole, data):
    index = open_index(whole)
    member = ShardFiles(index).members(0)["boxes.npy"]
    with only(ValueError):
        boxes = read_boxes(data.draw(damaged(member)))
        assert boxes.shape[1:] == (4,)
        assert boxes.dtype == np.float32


def test_a_size_that_is_not_octal_is_refused():
    header = bytearray(512)
    header[:6], header[124:135], header[156:157] = b"a.json", b"00000000009", b"0"
    with pytest.raises(DamagedShards, match="not a regular file of a plain tar"):
        list(read_members(bytes(header), Path("x.tar")))


def test_an_impossible_table_row_is_refused(whole, folder):
    table = np.fromfile(whole / TABLE_NAME, RECORD)
    for column in ("width", "height", "label", "template"):
        changed = table.copy()
        changed[column][0] = 0 if column in ("width", "height") else 60_000
        changed.tofile(folder / TABLE_NAME)
        with pytest.raises(DamagedShards, match=r"index\.bin: the row of sample 0 is damaged"):
            read_all(folder)
    shutil.copy(whole / TABLE_NAME, folder / TABLE_NAME)
