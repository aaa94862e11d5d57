"""Peers of the augmentation: the same operations at the same strengths as this project."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.support.other_trainers import augmentation
from vaetrain.augmentation.warp import page_mask

MODULES = {
    "kornia AugmentationSequential": "kornia",
    "torchvision v2, page by page": "torchvision",
}


@pytest.mark.parametrize("name", augmentation.PEERS)
def test_a_peer_corrupts_as_many_pixels_as_this_project(name, stored):
    pytest.importorskip(MODULES[name])
    own, peer = augmentation.ours(0), augmentation.PEERS[name](0)
    shares = []
    for batch in stored.boxes.one_pass():
        images = batch.images()
        pairs = own(batch), peer(images, batch.heights)
        for corrupted, clean in pairs:
            assert corrupted.shape == clean.shape == images.shape
            assert clean.min() >= 0
            assert corrupted.max() <= 1
            assert not torch.equal(clean, images)
        on_page = page_mask(batch.heights, images.shape[2]).expand_as(images).bool()
        shares.append([float((corrupted[on_page] == 1).float().mean()) for corrupted, _ in pairs])
    # Salt is half of 4 percent of the pixels, and erasing removes a seventeenth of it.
    np.testing.assert_allclose(np.mean(shares, axis=0), 0.0188, atol=0.002)


def test_torchvision_leaves_the_padding_empty(stored):
    pytest.importorskip("torchvision")
    batch = next(iter(stored.boxes.one_pass()))
    for images in augmentation.torchvision_pages(0)(batch.images(), batch.heights):
        for page, height in zip(images, batch.heights.tolist(), strict=True):
            assert not page[:, height:].any()
