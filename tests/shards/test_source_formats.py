"""A source format is one registered function: choice of --format, build and single page."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards import source_formats
from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import UserError
from shards.format.box_tree import canvas_size, four_numbers, layout_of_tree
from shards.format.layout import BadLayout, Layout, parse_layout, schema_of
from shards.format.png import encode_png
from shards.open import open_index
from shards.page_file import read_page
from shards.source_formats import (
    file_format_of,
    format_choices,
    register_file_format,
    register_generator,
    register_schema,
    suffixes_of,
)
from tests.support.paths import REPO

SQUARE = {"w": 20, "h": 20, "r": {"b": [0, 0, 20, 20]}}


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Give each test a registry of its own, which starts with the formats of the package."""
    monkeypatch.setattr(source_formats, "SOURCE_FORMATS", dict(source_formats.SOURCE_FORMATS))


def build_one(source: Path, out: Path, **options) -> tuple[int, list[dict]]:
    """Build shards; return the number of samples and the rejects."""
    build([source], out, BuildOptions(workers=1, **options))
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").open()]
    return len(open_index(out)), rejects


def test_choices_are_the_registered_formats():
    schemas = ("bounds", "compact", "elements", "figma", "rico")
    files = ("jpeg", "png", "uiautomator")
    assert format_choices() == ("auto", "layout", *sorted((*schemas, *files, "synthetic")))
    command = [sys.executable, "-m", "shards.build", "--help"]
    text = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60).stdout
    assert ",".join(format_choices()) in text.replace("\n", "").replace(" ", "")


def test_a_new_schema_is_parsed_and_can_be_chosen(tmp_path):
    @register_schema("frames", recognises=lambda record: "frames" in record)
    def parse_frames(record: dict) -> Layout:
        root = {"frame": record["size"], "inner": record["frames"]}
        return layout_of_tree(
            record,
            root,
            read_box=lambda node, x, y: four_numbers(node["frame"], ("x0", "y0", "x1", "y1")),
            children_key="inner",
            canvas=canvas_size(*record["size"][2:]),
        )

    record = {"size": [0, 0, 30, 40], "frames": [{"frame": [1, 2, 9, 8]}], "label": "form"}
    assert parse_layout(record).boxes.tolist() == [[0, 0, 30, 40], [1, 2, 9, 8]]
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "new.json").write_text(json.dumps(record))
    (tmp_path / "pages" / "other.json").write_text(json.dumps(SQUARE))
    assert build_one(tmp_path / "pages", tmp_path / "auto") == (2, [])
    count, rejects = build_one(tmp_path / "pages", tmp_path / "only", format="frames")
    assert count == 1
    assert rejects[0]["reason"] == "a layout of the compact schema, but --format is frames"


def test_a_new_layout_file_format_is_built_and_read_alone(tmp_path):
    @register_file_format("box-list", suffixes=(".boxes",), signature=b"BOXES")
    def parse_box_list(data: bytes) -> Layout:
        numbers = data.split()[1:]
        if len(numbers) % 4:
            raise BadLayout("a box has less than four numbers")
        boxes = np.array(numbers, np.int16).reshape(-1, 4)
        return Layout(int(boxes[0, 2]), int(boxes[0, 3]), boxes, 1, {"label": "list"})

    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "a.boxes").write_bytes(b"BOXES 0 0 16 16 2 2 9 9")
    (folder / "b.boxes").write_bytes(b"BOXES 0 0 16")
    count, rejects = build_one(folder, tmp_path / "out", format="box-list")
    assert count == 1
    assert [(Path(r["file"]).name, r["reason"]) for r in rejects] == [
        ("b.boxes", "a box has less than four numbers")
    ]
    assert open_index(tmp_path / "out").labels == ["list"]
    (folder / "a.boxes").rename(folder / "unnamed")
    page = read_page(folder / "unnamed", width=16, max_height=16, stride=16)
    assert page.boxes.tolist() == [[0, 0, 16, 16], [2, 2, 9, 9]]


def test_a_new_picture_format_is_built_as_pictures(tmp_path):
    @register_file_format("raw", suffixes=(".raw",), is_picture=True)
    def parse_raw(data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.uint8).reshape(8, 8)

    (tmp_path / "page.raw").write_bytes(bytes(range(64)))
    (tmp_path / "page.png").write_bytes(encode_png(np.zeros((9, 9), np.uint8)))
    count, rejects = build_one(tmp_path, tmp_path / "out", png_width=8)
    assert (count, rejects) == (2, [])
    assert open_index(tmp_path / "out").header["store"] == "png"


def test_a_new_generator_makes_its_default_count(tmp_path):
    @register_generator("squares", default_count=3)
    def square(seed: int, number: int) -> dict:
        return {**SQUARE, "w": 20 + 9 * number, "id": f"{seed}-{number}"}

    build([], tmp_path / "out", BuildOptions(format="squares", workers=1, seed=4))
    assert len(open_index(tmp_path / "out")) == 3
    with pytest.raises(UserError, match="--format squares generates its pages; give no SOURCE"):
        build([tmp_path], tmp_path / "other", BuildOptions(format="squares"))


def test_a_name_is_registered_once():
    for name in ("auto", "layout", "png", "compact"):
        with pytest.raises(ValueError, match="is registered already"):
            register_generator(name, default_count=1)(lambda seed, number: {})


@pytest.mark.parametrize(
    ("record", "schema"),
    [
        ({"r": {}, "bounds": [], "activity": {}}, "compact"),
        ({"bounds": [], "activity": {}}, "rico"),
        ({"bounds": []}, "rico"),
        ({"bounds": {}, "activity": {}}, "rico"),
        ({"bounds": {}}, "bounds"),
        ({"bounds": 5}, "bounds"),
        ({"type": "FRAME", "x": 0, "y": 0, "width": 9, "height": 9}, "figma"),
        ({"elements": [{"type": "FRAME"}]}, "figma"),
        ({"document": {"type": "DOCUMENT"}, "nodes": {}}, "figma"),
        ({"elements": [{"x": 0, "y": 0, "width": 9, "height": 9}], "nodes": []}, "elements"),
        ({"12": {"x": 0, "y": 0, "width": 9, "height": 9}, "13": None}, "elements"),
        ({"elements": [{"type": "FRAME"}], "bounds": []}, "rico"),
        ({"elements": [{"x": 0, "y": 0, "width": 9, "height": 9}], "r": {}}, "compact"),
    ],
)
def test_at_most_one_schema_recognises_a_record(record, schema):
    assert schema_of(record).name == schema
    matches = [entry.name for entry in source_formats.json_schemas() if entry.recognises(record)]
    assert matches == [schema]


def test_suffixes_of_each_choice():
    json_suffixes = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz")
    others = (".jpg", ".jpeg", ".png", ".xml", ".uix", ".xml.gz")
    assert suffixes_of("auto") == (*json_suffixes, *others)
    assert suffixes_of("layout") == suffixes_of("rico") == json_suffixes
    assert suffixes_of("png") == (".png",)


def test_a_file_is_recognised_by_name_and_then_by_its_first_bytes():
    picture = encode_png(np.zeros((1, 1), np.uint8))
    assert file_format_of("a.PNG").name == "png"
    assert file_format_of("a", picture).name == "png"
    assert file_format_of("a.json") is None
