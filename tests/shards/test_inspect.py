"""The inspect command: counts and a contact sheet, of shards and of source files."""

import json
import shutil
import sys

import numpy as np
import pytest

from shards import inspect
from shards.format.png import decode_png, encode_png
from shards.open import open_index
from tests.shards.pages import page, write_lines
from tests.support import element_specimens, figma_specimens, uiautomator_specimens
from tests.support.commands import run_module


def inspected(capsys, monkeypatch, *arguments: object) -> list[str]:
    """Run the command in this process and return the lines it prints."""
    monkeypatch.setattr(sys, "argv", ["shards.inspect", *map(str, arguments)])
    capsys.readouterr()
    assert inspect.main() == 0
    return capsys.readouterr().out.splitlines()


def test_inspect_prints_counts_and_draws_a_sheet(shards, tmp_path):
    done = run_module("shards.inspect", shards, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    assert "labels: " in done.stdout
    sheet = decode_png((tmp_path / "sheet.png").read_bytes())
    assert 20 < sheet.mean() < 240
    assert run_module("shards.inspect", tmp_path / "nothing").returncode == 1


def test_one_shard_is_shown_alone(shards, tmp_path, capsys, monkeypatch):
    shard = open_index(shards).shards[1]
    lines = inspected(capsys, monkeypatch, shards / shard.name, "--sheet", tmp_path / "x.png")
    assert len(lines) == 9 + shard.samples
    shutil.copy(shards / shard.name, tmp_path / "alone.tar")  # without its index
    lines = inspected(capsys, monkeypatch, tmp_path / "alone.tar")
    assert lines[0] == f"{tmp_path / 'alone.tar'}: {shard.samples} pages; 0 inputs refused"


def test_a_source_file_is_shown_as_it_is_trained_on(tmp_path, capsys, monkeypatch):
    record = page("登录页")
    record["r"]["c"] += [{"b": [1, 2, 0, 4]}, {"b": None}]
    write_lines(tmp_path / "x.jsonl", [record, {"hello": 1}])
    sheet = tmp_path / "x.png"
    lines = inspected(capsys, monkeypatch, tmp_path / "x.jsonl", "--sheet", sheet)
    assert lines[0] == f"{tmp_path / 'x.jsonl'}: 1 pages; 1 inputs refused"
    assert lines[1].startswith("refused: 2: not a layout")
    assert lines[2] == "nodes skipped, invisible or without area: 2"
    assert lines[-1].split("\t") == ["1", "-", "登录页", "other", "-", "200 x 300 px", "7 boxes"]
    drawn = decode_png(sheet.read_bytes())
    assert drawn.shape[1] == 128 + 2 * 8
    assert sorted(tmp_path.iterdir()) == [tmp_path / "x.jsonl", sheet]


@pytest.mark.parametrize("kind", ["figma", "uiautomator", "elements"])
def test_sources_of_other_tools_are_shown(tmp_path, capsys, monkeypatch, kind):
    if kind == "uiautomator":
        path = tmp_path / "screen.xml"
        path.write_bytes(uiautomator_specimens.specimens()["views without area"][0])
        expected = ["nodes skipped, invisible or without area: 4", "1080 x 2400 px", "2 boxes"]
    elif kind == "figma":
        path = tmp_path / "file.json"
        path.write_text(json.dumps(figma_specimens.specimens()["nodes without area"][0]))
        expected = ["nodes skipped, invisible or without area: 6", "393 x 852 px", "3 boxes"]
    else:
        path = tmp_path / "bb.json"
        path.write_text(json.dumps(element_specimens.specimens()["elements without area"][0]))
        expected = ["nodes skipped, invisible or without area: 2", "1280 x 720 px", "4 boxes"]
    lines = inspected(capsys, monkeypatch, path, "--sheet", tmp_path / "x.png")
    assert lines[0] == f"{path}: 1 pages; 0 inputs refused"
    assert [lines[1], *lines[-1].split("\t")[5:]] == expected
    assert decode_png((tmp_path / "x.png").read_bytes()).shape[1] == 128 + 2 * 8


def test_a_folder_of_pictures_is_shown(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.png").write_bytes(encode_png(np.full((30, 20), 7, np.uint8)))
    lines = inspected(capsys, monkeypatch, tmp_path)
    assert lines[0] == f"{tmp_path}: 1 pages; 0 inputs refused"
    assert "blank pictures, all pixels of one value: 1; the first: " in lines[1]


@pytest.mark.parametrize("name", ["a.json", "a.txt", "a.html"])
def test_a_file_that_is_no_source_is_refused_in_one_line(tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"hello": 1}) if name == "a.json" else "text")
    done = run_module("shards.inspect", tmp_path / name)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert name in line
