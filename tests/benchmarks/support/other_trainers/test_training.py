"""Peers of the trainer: their pages, their batches, and models of the same FLOPs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import peers
from benchmarks.support.other_trainers import training
from benchmarks.support.other_trainers.peer import Peer
from benchmarks.support.other_trainers.training import PEERS, LikeHeights, PngPages
from tests.benchmarks.conftest import HEIGHTS

MODULES = {"pythae": "pythae", "diffusers AutoencoderKL": "diffusers"}


@pytest.mark.parametrize("on_canvas", [True, False])
def test_pages_are_the_files_and_padding_is_zero(task, on_canvas, monkeypatch):
    monkeypatch.setattr(training, "torchvision_page", lambda: lambda page: (1 - page, page))
    corrupted, clean, height = PngPages(task, on_canvas=on_canvas)[4]
    stored = np.asarray(Image.open(task.pages.files[4])) / 255
    assert height == HEIGHTS[4]
    assert clean.shape == corrupted.shape == (1, 512 if on_canvas else height, 128)
    np.testing.assert_allclose(clean[0, :height], stored, atol=1e-6)
    np.testing.assert_allclose(corrupted[0, :height], 1 - stored, atol=1e-6)
    assert not clean[0, height:].any()
    assert not corrupted[0, height:].any()


def test_batches_of_like_height_cover_an_epoch_in_a_new_order():
    batches = LikeHeights(HEIGHTS, 4, seed=0)
    epochs = [list(batches) for _ in range(2)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(16))
        assert len(epoch) == len(batches) == 4
        ranges = sorted((min(HEIGHTS[batch]), max(HEIGHTS[batch])) for batch in epoch)
        assert all(low[1] <= high[0] for low, high in itertools.pairwise(ranges))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("name", [name for name in PEERS if name.startswith("plain script")])
def test_a_plain_script_trains_on_every_page(name, task):
    torch.manual_seed(0)
    peer = PEERS[name](task)
    assert peer.epoch() == 16
    assert sum(peer.rows.values()) == 16
    if name.endswith("canvas"):
        assert set(peer.rows) == {512}
    else:
        assert min(peer.rows) < 64
    images = torch.rand(1, 1, 64, 128)
    before = peer.forward(images, torch.tensor([64])).detach()
    peer.epoch()
    assert not torch.equal(peer.forward(images, torch.tensor([64])), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_every_peer_learns_and_has_the_same_flops_on_one_canvas(name, task):
    if name in MODULES:
        pytest.importorskip(MODULES[name])
    peer = PEERS[name](task)
    model = task.model() if name.endswith("our layers") else task.textbook_model()

    def forward(images, heights):
        return training.forward_pass(model, images, heights).reconstruction

    peer.rows[512] += 1
    own = Peer(lambda: 0, forward, peer.rows)
    shares, _ = peers.count_flops({peers.OURS: own, name: peer}, task)
    assert shares[name] == pytest.approx(1.0, abs=0.1)
    images, heights = torch.rand(2, 1, 512, 128), torch.tensor([512, 512])
    before = peer.forward(images, heights).detach()
    assert peer.epoch() == 16
    assert before.shape == images.shape
    assert not torch.equal(peer.forward(images, heights), before)
