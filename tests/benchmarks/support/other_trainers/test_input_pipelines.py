"""Peers of the input pipeline: all return the same pixels as this project."""

from __future__ import annotations

import pytest
import torch

from benchmarks import input_pipeline
from benchmarks.support.other_trainers.input_pipelines import PEERS, PageFiles

MODULES = {
    "WebDataset + PIL": "webdataset",
    "torchvision, a folder": "torchvision",
    "MosaicML Streaming": "streaming",
    "LitData": "litdata",
    "LitData, raw pixels": "litdata",
}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_returns_the_same_pixels_in_every_pass(name, stored, tmp_path):
    pytest.importorskip(MODULES[name])
    open_pass = PEERS[name](stored.pages, tmp_path)
    for _ in range(2):
        batches = [input_pipeline.as_floats(batch, torch.device("cpu")) for batch in open_pass()]
        assert len(batches) == 3
        for own, peer in zip(stored.pngs.one_pass(), batches, strict=True):
            assert torch.equal(own.images(), peer)


def test_images_are_padded_to_the_lowest_height_that_fits():
    pages = PageFiles([], 2, torch.tensor([16, 32, 64]).numpy())
    images = [torch.full((1, height, 8), 7, dtype=torch.uint8) for height in (10, 17)]
    batch = pages.collate(images)
    assert batch.shape == (2, 1, 32, 8)
    assert batch[0, 0, :10].eq(7).all()
    assert not batch[0, 0, 10:].any()
    assert batch[1, 0, :17].eq(7).all()
    assert not batch[1, 0, 17:].any()
