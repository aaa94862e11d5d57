"""The build command: identical bytes, atomic output, every refused input listed."""

import gzip
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from shards.atomic_files import sha256_of
from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import UserError
from shards.format.png import decode_png, encode_png
from shards.format.tar import read_boxes
from shards.open import open_index
from shards.verify import find_damage
from tests.shards.pages import page, write_lines
from tests.support.commands import MAX_CPU_SECONDS, cpu_seconds_of, run_module
from tests.support.paths import SAMPLE

PAGES = 60
ONE_WORKER = BuildOptions(workers=1)  # quicker than starting any


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def test_any_number_of_workers_gives_identical_bytes(shards, tmp_path):
    build([SAMPLE], tmp_path / "two", BuildOptions(count=PAGES, shard_mb=0.05, workers=2))
    assert files_of(tmp_path / "two") == files_of(shards)


def test_the_seed_changes_the_order(shards, tmp_path):
    build([SAMPLE], tmp_path / "other", BuildOptions(count=PAGES, shard_mb=0.05, seed=1, workers=1))
    assert files_of(tmp_path / "other") != files_of(shards)


def test_the_index_locates_every_sample(shards):
    index = open_index(shards)
    assert len(index) == sum(shard.samples for shard in index.shards) <= PAGES
    assert len(index.shards) > 3
    assert len(index.ids("train")) + len(index.ids("val")) == len(index)
    for number, shard in enumerate(index.shards):
        ids = np.arange(shard.first, shard.first + shard.samples)
        assert (index.shards_of(ids) == number).all()
        with tarfile.open(shards / shard.name) as tar:
            names = tar.getnames()
        assert len(names) == 2 * shard.samples


def test_webdataset_reads_the_shards(shards):
    index = open_index(shards)
    urls = [str(shards / shard.name) for shard in index.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(samples) == len(index)
    for sample, record in zip(samples, index.table, strict=True):
        metadata = json.loads(sample["json"])
        assert (metadata["w"], metadata["h"]) == (record["width"], record["height"])
        assert metadata["label"] == index.labels[record["label"]]
        assert len(read_boxes(sample["boxes.npy"])) == record["boxes"] == metadata["n"]


def test_each_template_is_in_one_split(shards):
    index = open_index(shards)
    sides = [
        {index.templates[n] for n in index.table["template"][list(index.ids(split))]}
        for split in ("train", "val")
    ]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_templates_are_spread_over_the_shards(shards):
    index = open_index(shards)
    first = {index.templates[row["template"]] for row in index.table[: index.shards[0].samples]}
    assert len(first) > 2


def test_duplicates_within_a_template_are_removed_and_listed(tmp_path):
    records = [
        page("first", template="t"),
        page("again", template="t"),
        page("elsewhere", template="u"),
        page("different", x=70, template="t"),
    ]
    report = build([write_lines(tmp_path / "x.jsonl", records)], tmp_path / "x", ONE_WORKER)
    assert (report.counts["duplicates"], report.counts["near_duplicates"]) == (1, 0)
    rejects = [json.loads(line) for line in (tmp_path / "x" / "rejects.jsonl").open()]
    assert [(r["id"], r["line"], r["reason"]) for r in rejects] == [
        ("first", 1, "exact duplicate of again")  # the first by id is kept, in whatever order
    ]
    keep = BuildOptions(keep_duplicates=True, workers=1)
    assert build([tmp_path / "x.jsonl"], tmp_path / "kept", keep).counts["kept"] == 4


def test_repeated_and_unusual_ids_get_unique_keys(tmp_path):
    names = ["a", "a", "a-2", "x/y.z", "é" * 100, "..", "p" * 200]
    records = [page(name, x=20 * n) for n, name in enumerate(names)]
    build([write_lines(tmp_path / "x.jsonl", records)], tmp_path / "x", ONE_WORKER)
    urls = [str(path) for path in (tmp_path / "x").glob("*.tar")]
    keys = [sample["__key__"] for sample in webdataset.WebDataset(urls, shardshuffle=False)]
    assert len(set(keys)) == len(names)
    assert all(key.isascii() and 0 < len(key) <= 80 for key in keys)
    assert not any(set(key) & set("./") for key in keys)


def test_pictures_are_drawn_from_layouts_or_read_from_files(tmp_path):
    build([SAMPLE], tmp_path / "both", BuildOptions(count=4, store="both", png_width=64, workers=1))
    for sample in webdataset.WebDataset(
        [str(path) for path in (tmp_path / "both").glob("*.tar")], shardshuffle=False
    ):
        metadata = json.loads(sample["json"])
        gray = decode_png(sample["png"])
        assert gray.shape == (max(1, int(metadata["h"] * 64 / metadata["w"] + 0.5)), 64)
        assert 0 < gray.max() <= 255
    folder = tmp_path / "pictures" / "login"
    folder.mkdir(parents=True)
    for number in range(3):
        gray = np.full((40, 30), 10 * number, np.uint8)
        (folder / f"p{number}.png").write_bytes(encode_png(gray))
    build([folder.parent], tmp_path / "png", BuildOptions(keep_duplicates=True, workers=1))
    index = open_index(tmp_path / "png")
    assert (index.header["store"], index.labels) == ("png", ["login"])


BAD_LINES = {
    "cut off": '{"w": 10, "h": 10, "r": {"b": [0, 0',
    "no layout": '{"hello": 1}',
    "zero": json.dumps(page("zero") | {"r": {"b": [0, 0, 0, 5]}}),
    "negative": json.dumps(page("negative") | {"r": {"b": [0, 0, -4, 5]}}),
    "nan": '{"w": 10, "h": 10, "r": {"b": [0, NaN, 5, 5]}}',
    "huge": json.dumps(page("huge") | {"w": 10**9}),
    "deep": '{"w":9,"h":9,"r":' + '{"b":[0,0,9,9],"c":[' * 50_000 + "]}" * 50_000 + "}",
    "bytes": "\udcff\udcfe",
    "number": "12",
}


def test_bad_lines_are_listed_and_good_ones_kept(tmp_path):
    source = tmp_path / "mixed.jsonl"
    good = [json.dumps(page(f"good{n}", x=3 * n)) for n in range(5)]
    lines = [line for pair in zip(good, list(BAD_LINES.values())[:5], strict=True) for line in pair]
    lines += list(BAD_LINES.values())[5:]
    source.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    done = run_module("shards.build", source, "--out", tmp_path / "out", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "kept 5, rejected 9" in done.stdout
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").open()]
    assert [reject["line"] for reject in rejects] == [2, 4, 6, 8, 10, 11, 12, 13, 14]
    assert all(reject["reason"] and "\n" not in reject["reason"] for reject in rejects)
    assert not list(find_damage(tmp_path / "out"))


def test_bad_files_are_listed_and_good_ones_kept(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "good.json").write_text(json.dumps(page("good")))
    (source / "empty.json").write_bytes(b"")
    (source / "text.png").write_text("not a picture")
    (source / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(page("cut")).encode())[:-9])
    (source / "dangling.json").symlink_to(source / "nowhere.json")
    os.mkfifo(source / "pipe.json")
    done = run_module("shards.build", source, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    refused = {
        Path(json.loads(line)["file"]).name for line in (tmp_path / "out" / "rejects.jsonl").open()
    }
    assert refused == {"empty.json", "text.png", "cut.jsonl.gz", "dangling.json", "pipe.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out", "OUT"], "nowhere: no such file or folder"),
        (["EMPTY", "--out", "OUT"], "EMPTY: no layouts found"),
        (["--out", "OUT"], "no SOURCE given"),
        (["x", "--format", "synthetic", "--out", "OUT"], "give no SOURCE"),
        ([SAMPLE, "--out", "FULL"], "FULL: exists already"),
        (
            [SAMPLE, "--out", "OUT", "--val-fraction", "2"],
            "--val-fraction: is 2.0, must be in",
        ),
        ([SAMPLE, "--out", "OUT", "--workers", "0"], "--workers: is 0, must be in 1..1024"),
        ([SAMPLE, "--out", "OUT", "--workers", "x"], "--workers"),
    ],
)
def test_user_errors_print_one_line_and_leave_no_files(tmp_path, arguments, message):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "file").write_text("mine")
    named = [tmp_path / a if a in ("OUT", "EMPTY", "FULL") else a for a in arguments]
    done = run_module("shards.build", *named)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["EMPTY", "FULL"]


def test_a_failed_build_leaves_no_files(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shards.building.assemble.write_index", fail)
    with pytest.raises(OSError, match="No space left"):
        build([SAMPLE], tmp_path / "out", BuildOptions(count=4, workers=1))
    assert list(tmp_path.iterdir()) == []


def test_options_are_checked_before_any_file_is_written(tmp_path):
    with pytest.raises(UserError, match="--shard-mb"):
        build([SAMPLE], tmp_path / "out", BuildOptions(shard_mb=0))


@pytest.mark.parametrize("module", ["shards.build", "shards.verify", "shards.inspect"])
def test_help_does_not_import_torch(module):
    seconds, _ = cpu_seconds_of(sys.executable, "-m", module, "--help")
    assert seconds < MAX_CPU_SECONDS
