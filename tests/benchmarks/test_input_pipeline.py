"""The input pipeline benchmark: its pages, its comparisons, and a quick run."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import input_pipeline
from benchmarks.support import report
from benchmarks.support.other_trainers import augmentation, input_pipelines
from tests.benchmarks.quick_run import quick_run


def test_pngs_equal_the_drawn_boxes_to_half_a_grey_value(stored):
    for drawn, decoded in zip(stored.boxes.one_pass(), stored.pngs.one_pass(), strict=True):
        difference = (drawn.images() - decoded.images()).abs().max()
        assert 0 < difference <= 0.501 / 255
        assert torch.equal(drawn.heights, decoded.heights)


@pytest.mark.parametrize(
    ("medians", "expected"),
    [
        (
            {
                "WebDataset + PIL": 3.0,
                "torchvision, a folder": 1.0,
                "LitData": 2.0,
                "LitData, raw pixels": 9.0,
            },
            [
                ("ours, boxes", "WebDataset + PIL", 5.0),
                ("ours, boxes", "LitData", 2.0),
                ("ours, PNGs", "WebDataset + PIL", 1.0),
                ("ours, boxes", "LitData, raw pixels", None),
                ("ours, boxes", "ours, PNGs", None),
            ],
        ),
        ({}, [("ours, boxes", "ours, PNGs", None)]),
    ],
)
def test_targets_are_relative_to_pillow_and_to_the_fastest_peer(medians, expected):
    assert input_pipeline.comparisons(128, medians) == expected


def test_a_peer_that_is_not_installed_is_reported_missing(stored, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    peers = {
        "WebDataset + PIL": input_pipelines.webdataset_pil,
        "a folder": input_pipelines.torchvision_folder,
    }
    monkeypatch.setattr(input_pipeline, "PEERS", peers)
    entries = report.Entries()
    timing = {"rounds": 1, "warmup": 0, "device": torch.device("cpu"), "seed": 0}
    input_pipeline.measure_input("disk", 128, stored, tmp_path, entries, timing)
    assert [entry["name"] for entry in entries.missing] == ["WebDataset + PIL"]
    assert "webdataset" in entries.missing[0]["reason"]
    assert [entry["name"] for entry in entries.results] == ["ours, boxes", "ours, PNGs", "a folder"]
    assert all(entry["against"] != "WebDataset + PIL" for entry in entries.comparisons)


@pytest.mark.slow
def test_quick_run_measures_every_pipeline_that_is_installed(tmp_path):
    record, _ = quick_run("input_pipeline", tmp_path)
    assert {entry["group"] for entry in record["results"]} == {
        f"{width} px, {part}"
        for width in (128, 256)
        for part in ("pages from disk", "augmentation alone")
    }
    names = {entry["name"] for entry in record["results"] + record["missing"]}
    assert names >= {*input_pipelines.PEERS, *augmentation.PEERS, "ours, boxes", "ours, PNGs"}
