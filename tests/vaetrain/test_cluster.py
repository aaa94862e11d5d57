"""The command `cluster`: its files, its table and its refusals."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from shards.errors import DamagedShards, UserError
from shards.open import open_index
from shards.reading.shard_files import ShardFiles
from tests.vaetrain.pages_one_by_one import encode_one_by_one, fitted_space

COLUMNS = ["id", "key", "label", "template", "page_id", "cluster", "distance", "probability"]


def command(*arguments: object) -> None:
    """Run the command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cluster", *map(str, arguments)])
        assert import_module("vaetrain.cluster").main() == 0


def where(folder: Path) -> list[object]:
    """Return the run and the shards of `run_folder` as arguments."""
    return [folder / "run", "--shards", folder / "shards"]


@pytest.fixture(scope="module")
def out(run_folder, tmp_path_factory) -> Path:
    """The folder that the command writes."""
    folder = tmp_path_factory.mktemp("clusters") / "new"
    command(*where(run_folder), "--out", folder, "--clusters", 3)
    return folder


def test_the_table_has_a_row_for_every_page(run_folder, out, layouts):
    table = pyarrow.parquet.read_table(out / "clusters.parquet")
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == list(range(len(layouts)))
    files = ShardFiles(open_index(run_folder / "shards"))
    for row in rows:
        page = json.loads(files.members(row["id"])["json"])
        assert [row[name] for name in ("key", "page_id", "label", "template")] == [
            page[name] for name in ("id", "id", "label", "template")
        ]
        assert row["cluster"] in (0, 1, 2)
        assert 0 <= row["probability"] <= 1
    mu, _, structure = encode_one_by_one(run_folder, range(len(layouts)))
    vectors = fitted_space(run_folder, len(layouts)).vectors(mu, structure).numpy()
    cluster = np.array([row["cluster"] for row in rows])
    centres = np.stack([vectors[cluster == each].mean(axis=0) for each in range(3)])
    distances = np.linalg.norm(vectors[:, None] - centres, axis=2)
    # No page is a near-duplicate of another, so the centres are the means of all pages.
    assert json.loads((out / "clusters.json").read_text())["fitted_pages"] == len(layouts)
    np.testing.assert_array_equal(distances.argmin(axis=1), cluster)
    assert [row["distance"] for row in rows] == pytest.approx(distances.min(axis=1), abs=1e-3)


def test_the_summary_and_the_sheet_agree_with_the_table(out, layouts):
    summary = json.loads((out / "clusters.json").read_text())
    table = pyarrow.parquet.read_table(out / "clusters.parquet")
    sizes = np.bincount(table["cluster"].to_numpy())
    assert [each["pages"] for each in summary["each"]] == sizes.tolist()
    assert sizes.tolist() == sorted(sizes, reverse=True)
    assert (summary["clusters"], summary["requested"], summary["method"]) == (3, 3, "kmeans")
    for each in summary["each"]:
        medoid = table.slice(each["medoid"]["id"], 1).to_pylist()[0]
        assert (medoid["cluster"], medoid["key"]) == (each["cluster"], each["medoid"]["key"])
        assert 0 <= each["stability"] <= 1
    agreed = summary["agreement"]["ami"]
    assert agreed["low"] <= agreed["value"] <= agreed["high"]
    assert [trial["size"] for trial in summary["tried"]] == [3]
    with Image.open(out / "clusters.png") as sheet:
        assert sheet.mode == "RGB"
    assert not list(out.glob(".*"))


def test_a_second_call_gives_the_same_and_prints_the_table(run_folder, out, capsys):
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    parts = {path: path.stat().st_mtime_ns for path in (out / "embedding").iterdir()}
    capsys.readouterr()
    command(*where(run_folder), "--out", out, "--clusters", 3)
    printed = capsys.readouterr().out.splitlines()
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    pages = [int(line.split()[1]) for line in printed[1:4]]
    assert pages == [each["pages"] for each in json.loads(before["clusters.json"])["each"]]
    assert "silhouette" in "\n".join(printed[4:])
    assert any(line.startswith("agreement with labels: nmi ") for line in printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "{tmp}/file"], "is a file"),
        (["--out", "{tmp}/o", "--clusters", "1"], "2..1000"),
        (["--out", "{tmp}/o", "--clusters", "few"], "whole number"),
        (["--out", "{tmp}/o", "--method", "dbscan"], "invalid choice"),
        (["--out", "{tmp}/o", "--method", "hdbscan", "--clusters", "5"], "finds the number"),
    ],
)
def test_invalid_arguments_are_refused_with_one_line(tmp_path, capsys, arguments, message):
    (tmp_path / "file").touch()
    arguments = [each.format(tmp=tmp_path) for each in arguments]
    with pytest.raises(SystemExit) as caught:
        command("run", "--shards", "s", *arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_pyarrow_the_remedy_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"needs pyarrow; install it with: pip install -e '\.\[cluster\]'"
    ):
        command("nowhere", "--shards", tmp_path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_clusters_than_pages_are_refused(run_folder, tmp_path):
    with pytest.raises(UserError, match="--clusters: is 900, at most 12 are possible"):
        command(*where(run_folder), "--out", tmp_path / "out", "--clusters", 900)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["embedding"]


def test_a_page_that_cannot_be_read_leaves_no_table(run_folder, out, tmp_path, monkeypatch):
    def damaged(self, number):
        raise DamagedShards("train-000001.tar: is damaged")

    monkeypatch.setattr(ShardFiles, "names", damaged)
    with pytest.raises(DamagedShards):
        command(*where(run_folder), "--out", tmp_path / "out", "--clusters", 3)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["embedding"]
