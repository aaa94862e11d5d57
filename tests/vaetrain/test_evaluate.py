"""Evaluate command: metrics of a run's averaged model on any shards."""

import functools
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shards.build import build
from shards.building.options import BuildOptions
from shards.open import open_index
from shards.reading.collator import Collator
from shards.reading.height_ladder import height_ladder
from shards.reading.shard_files import ShardFiles
from tests.support.commands import run_module
from tests.vaetrain.pages_one_by_one import SAMPLE_FILE
from vaetrain import load_model
from vaetrain.evaluate import print_table

evaluate = functools.partial(run_module, "vaetrain.evaluate")


@torch.no_grad()
def l1_one_by_one(folder: Path, ids: range) -> float:
    """Return the mean L1 of pages that are reconstructed one by one."""
    model = load_model(folder / "run")
    ladder = height_ladder(128, model.stride)
    files = ShardFiles(open_index(folder / "shards"))
    collator = Collator(files, width=64, max_height=128, ladder=ladder, seed=0)
    errors = []
    for number in ids:
        page = collator.batch(np.array([number]), np.array([0]), training=False)
        images, height = page.images(), int(page.heights[0])
        mu, _ = model.encode(images, page.heights)
        decoded = model.decode(mu, page.heights, page.size).clamp(0, 1)
        errors.append(float((decoded - images)[:, :, :height].abs().mean()))
    return float(np.mean(errors))


@pytest.mark.parametrize("split", ["all", "val"])
def test_metrics_are_means_over_the_pages_of_the_split(small_run, tmp_path, split):
    out, sheets = tmp_path / "metrics.json", tmp_path / "new" / "sheets"
    files = ["--json", out, "--sheets", sheets, "--refine", 1]
    done = evaluate(small_run / "run", "--shards", small_run / "shards", "--split", split, *files)
    assert done.returncode == 0, done.stderr
    names = ["interpolations.png", "reconstructions.png", "samples.png"]
    assert sorted(path.name for path in sheets.iterdir()) == names
    with Image.open(sheets / "samples.png") as picture:
        assert picture.mode == "L"
    metrics = json.loads(out.read_text())
    ids = open_index(small_run / "shards").ids(split)
    assert metrics["pages"] == len(ids)
    assert metrics["l1"] == pytest.approx(l1_one_by_one(small_run, ids), rel=1e-5)
    assert {"ssim", "mse", "kl", "active_units", "latent_std_mean", "kl_per_dim_max"} <= set(
        metrics
    )
    assert {"slerp_ssim_std", "slerp_ssim_min", "nmi", "refined_l1"} <= set(metrics)
    assert len({"fid", "fid_random"} & set(metrics)) == 1
    assert len(metrics["latent_std"]) == 8
    assert np.mean(metrics["latent_std"]) == pytest.approx(metrics["latent_std_mean"])
    assert max(metrics["latent_std"]) == pytest.approx(metrics["latent_std_max"])
    # The validation pages all have one template, so none has neighbours.
    assert ("box_iou_at_10" in metrics) == ("knn_label_accuracy" in metrics) == (split == "all")


@pytest.mark.parametrize(
    ("run", "shards", "message"),
    [("nothing", "shards", "no trained model"), ("run", "nothing", "index.json")],
)
def test_mistakes_are_refused_with_one_line(small_run, run, shards, message):
    done = evaluate(small_run / run, "--shards", small_run / shards)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line


def test_the_table_has_one_column_for_the_model_and_each_baseline(capsys):
    metrics = {"pages": 3, "l1": 0.25, "latent_std": [1.0], "baselines": {"pca": {"l1": 0.5}}}
    print_table(metrics)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [["model", "pca"], ["pages", "3"], ["l1", "0.25", "0.5"]]


def test_a_split_without_pages_is_refused(small_run, tmp_path):
    """Shards of one page have a training page only."""
    with gzip.open(SAMPLE_FILE, "rt") as lines:
        (tmp_path / "page.jsonl").write_text(next(lines))
    shards = tmp_path / "shards"
    build([tmp_path / "page.jsonl"], shards, BuildOptions(workers=1))
    done = evaluate(small_run / "run", "--shards", shards, "--split", "val")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"vaetrain.evaluate: --shards {shards}: has no pages in `val`; "
        "name other shards, or --split all"
    )
