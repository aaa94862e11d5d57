"""First-day inputs of other people: each is built, or refused in a line that says what to do."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import DamagedShards, UserError
from shards.format.png import SIGNATURE
from shards.open import open_index
from shards.reading.shard_files import ShardFiles
from tests.shards.building.test_tar_samples import rejects_of, tar_of
from tests.shards.pages import page, write_lines
from tests.support.commands import run_module

OPTIONS = BuildOptions(workers=1, keep_duplicates=True)


def names_of(out: Path) -> dict[str, tuple[str, str, str]]:
    """Return key, label and template of each page of some shards by its own id."""
    index = open_index(out)
    names = {}
    for number, row in enumerate(index.table):
        key, page_id = ShardFiles(index).names(number)
        names[page_id] = (key, index.labels[row["label"]], index.templates[row["template"]])
    return names


def test_a_page_with_an_empty_node_of_a_browser_is_kept_and_the_node_is_counted(tmp_path):
    boxes = [{"bounds": {"x": 9 * n, "y": 30, "width": 8, "height": 9}} for n in range(12)]
    boxes.append({"bounds": {"x": 5, "y": 5, "width": 0, "height": 14}})
    record = {"bounds": {"x": 0, "y": 0, "width": 390, "height": 844}, "children": boxes}
    (tmp_path / "p.json").write_text(json.dumps(record))
    report = build([tmp_path / "p.json"], tmp_path / "out", OPTIONS)
    assert (report.counts["kept"], report.counts["skipped_nodes"]) == (1, 1)
    assert "nodes skipped, invisible or without area: 1" in str(report)
    assert open_index(tmp_path / "out").table["boxes"].tolist() == [13]


IDS = ["登录页0", "登录页1", "เข้าสู่ระบบ", "عربي", "שלום", "🚀", "👩\u200d👧", "é", "e\u0301"]
IDS += ["a\u202eb", "a\nb", "x" * 1024, "登" * 1024, "\uff21\uff22", "AB", "ab", "\u200b"]
IDS += [" ", "-", "..", "/", "'\"\\"]


def test_a_build_without_validation_pages_says_why(tmp_path):
    one = [page(name, x=9 * n, template="app") for n, name in enumerate("abc")]
    source = write_lines(tmp_path / "p.jsonl", one)
    report = build([source], tmp_path / "one", OPTIONS)
    assert "no validation pages: all pages have one template; add pages of" in str(report)
    split = BuildOptions(workers=1, keep_duplicates=True, split_by="sample")
    assert "no validation" not in str(build([source], tmp_path / "split", split))
    none = BuildOptions(workers=1, keep_duplicates=True, val_fraction=0)
    assert "no validation" not in str(build([source], tmp_path / "none", none))
    single = build([write_lines(tmp_path / "s.jsonl", one[:1])], tmp_path / "single", OPTIONS)
    assert "no validation pages: there is a single page" in str(single)


def test_ids_of_any_script_are_stored_beside_keys_that_are_ascii(tmp_path):
    records = [
        page(name, x=n, label=f"标签{n % 3}", template=f"模板{n % 5}") for n, name in enumerate(IDS)
    ]
    build([write_lines(tmp_path / "p.jsonl", records)], tmp_path / "out", OPTIONS)
    names = names_of(tmp_path / "out")
    assert set(names) == set(IDS)
    keys = [key for key, *_ in names.values()]
    assert len(set(keys)) == len(IDS)
    assert all(key.isascii() and key.isprintable() and len(key) <= 80 for key in keys)
    for number, name in enumerate(IDS):
        assert names[name][1:] == (f"标签{number % 3}", f"模板{number % 5}")


def test_long_texts_are_shortened_to_different_texts_and_counted(tmp_path):
    records = [page("页" * 5000 + str(n), x=n, label="标" * 2000) for n in range(3)]
    report = build([write_lines(tmp_path / "p.jsonl", records)], tmp_path / "out", OPTIONS)
    names = names_of(tmp_path / "out")
    assert len(names) == 3
    assert {len(name) for name in names} == {1024}
    assert report.counts["shortened_texts"] == 6
    assert "of more than 1024 characters, shortened to a hash at their end: 6" in str(report)


def test_names_of_files_in_any_script_become_ids(tmp_path):
    folder = tmp_path / "pages" / "购物"
    folder.mkdir(parents=True)
    record = {name: value for name, value in page("x").items() if name != "id"}
    (folder / "登录.json").write_text(json.dumps(record))
    build([tmp_path / "pages"], tmp_path / "out", OPTIONS)
    assert list(names_of(tmp_path / "out")) == ["购物/登录"]


@pytest.mark.parametrize("colour", [0, 2])
def test_a_png_with_fewer_rows_than_its_header_is_refused_by_name(tmp_path, colour):
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    rows = zlib.compress(bytes(10 * (1 + 40 * (3 if colour else 1))))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 64, 8, colour, 0, 0, 0))
    data = SIGNATURE + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "short.png").write_bytes(data)
    with pytest.raises(UserError, match=r"short\.png: damaged PNG: truncated"):
        build([tmp_path], tmp_path / "out", OPTIONS)


def test_blank_pictures_are_counted_and_a_shape_in_the_alpha_channel_is_read(tmp_path):
    shape = np.zeros((30, 20, 4), np.uint8)
    shape[5:20, 3:15, 3] = 200
    Image.fromarray(shape).save(tmp_path / "alpha.png")
    for name, mode in (("black", "L"), ("white", "RGB"), ("clear", "RGBA")):
        Image.new(mode, (20, 30), 0 if name != "white" else "white").save(tmp_path / f"{name}.png")
    Image.new("L", (20, 30), 80).save(tmp_path / "grey.jpg")
    report = build([tmp_path], tmp_path.parent / f"{tmp_path.name}-out", OPTIONS)
    assert (report.counts["kept"], report.counts["blank_pictures"]) == (5, 4)
    again = build([tmp_path], tmp_path.parent / f"{tmp_path.name}-again", BuildOptions(workers=1))
    assert again.counts["blank_pictures"] == 4  # also those that repeat another one
    first = tmp_path / "black.png"
    assert f"blank pictures, all pixels of one value: 4; the first: {first}" in str(report)


@pytest.mark.parametrize("codec", ["utf-16", "utf-32", "utf-8-sig", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
def test_all_pages_of_a_file_in_another_encoding_are_built(tmp_path, codec, name):
    records = [page(f"登录{n}", x=9 * n) for n in range(6 if name == "p.jsonl" else 1)]
    text = "\r\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (tmp_path / name).write_bytes(text.encode(codec))
    report = build([tmp_path / name], tmp_path / "out", OPTIONS)
    assert (report.counts["kept"], report.counts["rejected"]) == (len(records), 0)
    assert set(names_of(tmp_path / "out")) == {record["id"] for record in records}


def test_nothing_found_counts_what_is_there(tmp_path):
    for name in ("a.html", "b.html", "c.pdf", "d", ".hidden"):
        (tmp_path / name).write_text("text")
    done = run_module("shards.build", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no layouts found among 4 files (2 .html, 1 .pdf, 1 without suffix)" in line
    assert "read are .jsonl, " in line
    assert f"python -m shards.capture {tmp_path} --out layouts.jsonl.gz" in line


@pytest.mark.parametrize("source", ["page.html", "PAGE.HTM", "https://example.org/a"])
def test_web_pages_are_refused_with_the_command_that_captures_them(tmp_path, source):
    with pytest.raises(UserError) as refusal:
        build([source], tmp_path / "out", OPTIONS)
    assert f"run: python -m shards.capture {source} --out layouts.jsonl.gz" in str(refusal.value)


def test_json_gz_is_read_and_a_named_file_is_recognised_by_its_content(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(page("a")).encode()))
    (tmp_path / "b.dump").write_text(json.dumps(page("b", x=40)))
    report = build([tmp_path / "a.json.gz", tmp_path / "b.dump"], tmp_path / "out", OPTIONS)
    assert report.counts["kept"] == 2
    (tmp_path / "c.dump").write_text("text")
    with pytest.raises(UserError, match=r"c\.dump: --format auto reads \.jsonl"):
        build([tmp_path / "c.dump"], tmp_path / "other", OPTIONS)


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path):
    write_lines(tmp_path / "p.jsonl", [page("a")])
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text("text")
    report = build([tmp_path], tmp_path.parent / f"{tmp_path.name}-out", OPTIONS)
    assert "other files, ignored: 3 files (2 .txt, 1 .md)" in str(report)


def test_opening_files_of_other_tools_as_shards_names_the_command_that_builds_them(tmp_path):
    (tmp_path / "train-000000.tar").write_bytes(tar_of({"a.json": b"{}"}))
    command = f"python -m shards.build {tmp_path} --out NEW"
    with pytest.raises(DamagedShards, match="holds tars of another tool") as refusal:
        open_index(tmp_path)
    assert command in str(refusal.value)
    with pytest.raises(DamagedShards, match="is a file, not a folder of shards"):
        open_index(tmp_path / "train-000000.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DamagedShards, match="No such file"):
        open_index(tmp_path / "empty")


def test_duplicates_name_their_original_on_one_line(tmp_path):
    records = [page("页\n1"), page("页\n2")]
    options = BuildOptions(workers=1)
    build([write_lines(tmp_path / "p.jsonl", records)], tmp_path / "out", options)
    (reject,) = rejects_of(tmp_path / "out")
    assert reject["reason"] == "exact duplicate of 页\\n1"
