"""All that the input pipeline's benchmark compares gives the same pages; the command works."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import input_pipeline
from benchmarks.support import report
from benchmarks.support.other_trainers import augmentation, input_pipelines
from benchmarks.support.sample_pages import SAMPLE
from shards.build import build
from shards.building.options import BuildOptions
from shards.open import open_index
from vaetrain.augmentation.warp import page_mask

WIDTH = 128
MODULES = {
    "WebDataset + PIL": "webdataset",
    "torchvision, a folder": "torchvision",
    "MosaicML Streaming": "streaming",
    "LitData": "litdata",
    "LitData, raw pixels": "litdata",
    "kornia AugmentationSequential": "kornia",
    "torchvision v2, page by page": "torchvision",
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> input_pipeline.Stored:
    folder = tmp_path_factory.mktemp("stored")
    build([SAMPLE], folder / "boxes", BuildOptions(workers=1, count=60))
    return input_pipeline.store(open_index(folder / "boxes"), WIDTH, folder, 40)


def installed(name: str) -> bool:
    return importlib.util.find_spec(MODULES[name]) is not None


def test_pngs_are_the_drawn_boxes_to_half_a_grey_value(stored):
    pairs = zip(stored.boxes.one_pass(), stored.pngs.one_pass(), strict=True)
    for drawn, decoded in pairs:
        difference = (drawn.images() - decoded.images()).abs().max()
        assert 0 < difference <= 0.501 / 255
        assert torch.equal(drawn.heights, decoded.heights)


@pytest.mark.parametrize("name", input_pipelines.PEERS)
def test_a_peer_gives_the_same_pixels_in_every_pass(name, stored, tmp_path):
    if not installed(name):
        with pytest.raises(ImportError):
            input_pipelines.PEERS[name](stored.pages, tmp_path)
        return
    open_pass = input_pipelines.PEERS[name](stored.pages, tmp_path)
    for _ in range(2):
        batches = [input_pipeline.as_floats(batch, torch.device("cpu")) for batch in open_pass()]
        assert len(batches) == 3
        for ours, theirs in zip(stored.pngs.one_pass(), batches, strict=True):
            assert torch.equal(ours.images(), theirs)


@pytest.mark.parametrize("name", augmentation.PEERS)
def test_a_peer_augments_pages_like_ours(name, stored):
    if not installed(name):
        with pytest.raises(ImportError):
            augmentation.PEERS[name](0)
        return
    batches = list(stored.boxes.one_pass())
    ours = augmentation.ours(0)
    theirs = augmentation.PEERS[name](0)
    shares = []
    for batch in batches:
        images = batch.images()
        results = ours(batch), theirs(images, batch.heights)
        for spoiled, clean in results:
            assert spoiled.shape == clean.shape == images.shape
            assert clean.min() >= 0
            assert spoiled.max() <= 1
            assert not torch.equal(clean, images)
        on_page = page_mask(batch.heights, images.shape[2]).expand_as(images).bool()
        shares.append([float((spoiled[on_page] == 1).float().mean()) for spoiled, _ in results])
    # Salt is half of 4 percent of the pixels, and erasing takes a seventeenth of it away.
    np.testing.assert_allclose(np.mean(shares, axis=0), 0.0188, atol=0.002)


def test_a_peer_that_is_not_installed_is_named(stored, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    monkeypatch.setattr(
        input_pipeline,
        "PEERS",
        {
            "WebDataset + PIL": input_pipelines.webdataset_pil,
            "a folder": input_pipelines.torchvision_folder,
        },
    )
    found = report.Entries()
    timing = {"rounds": 1, "warmup": 0, "device": torch.device("cpu"), "seed": 0}
    input_pipeline.measure_input("disk", WIDTH, stored, tmp_path, found, timing)
    assert [entry["name"] for entry in found.missing] == ["WebDataset + PIL"]
    assert "webdataset" in found.missing[0]["reason"]
    assert [entry["name"] for entry in found.results] == ["ours, boxes", "ours, PNGs", "a folder"]
    assert all(entry["against"] != "WebDataset + PIL" for entry in found.comparisons)


def test_the_quick_run_leaves_a_record_and_a_picture(tmp_path):
    command = [sys.executable, "-m", "benchmarks.input_pipeline", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    told = json.loads((tmp_path / "input_pipeline.json").read_text())
    report.check(told)
    assert report.table(told) in done.stdout
    assert told["quick"] is True
    assert {entry["group"] for entry in told["results"]} == {
        f"{width} px, {what}"
        for width in (128, 256)
        for what in ("pages from disk", "augmentation alone")
    }
    named = {entry["name"] for entry in told["results"] + told["missing"]}
    assert named >= {*input_pipelines.PEERS, *augmentation.PEERS, "ours, boxes", "ours, PNGs"}
    picture = np.asarray(Image.open(tmp_path / "input_pipeline.png").convert("L"))
    assert picture.std() > 20
