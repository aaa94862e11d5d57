"""The peers of training see the same pages as our trainer, in models of the same FLOPs."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import peers
from benchmarks.support import report
from benchmarks.support.other_trainers import training
from benchmarks.support.other_trainers.input_pipelines import PageFiles
from benchmarks.support.other_trainers.training import (
    PEERS,
    LikeHeights,
    Peer,
    PngPages,
    Task,
    peer_process,
)
from shards.format.png import encode_png
from shards.reading.height_ladder import height_ladder
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import load_experiment

CPU = torch.device("cpu")
HEIGHTS = np.array([20, 500, 60, 512, 33, 250, 40, 480] * 2)
INSTALLED = {
    name: importlib.util.find_spec(module) is not None
    for name, module in (("pythae", "pythae"), ("diffusers AutoencoderKL", "diffusers"))
}


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    draw, files = np.random.default_rng(0), []
    for number, height in enumerate(HEIGHTS):
        files.append(folder / f"{number}.png")
        files[-1].write_bytes(encode_png(draw.integers(0, 256, (height, 128), dtype=np.uint8)))
    experiment = load_experiment(experiment_path("default"), ["model.start=random"])
    pages = PageFiles(files, 4, height_ladder(512, 16))
    return Task(pages, HEIGHTS, experiment, CPU, 0, folder / "peers", 0)


@pytest.mark.parametrize("on_canvas", [True, False])
def test_pages_are_the_files_and_padding_is_zero(task, on_canvas, monkeypatch):
    monkeypatch.setattr(training, "torchvision_page", lambda: lambda page: (1 - page, page))
    spoiled, clean, height = PngPages(task, on_canvas=on_canvas)[4]
    stored = np.asarray(Image.open(task.pages.files[4])) / 255
    assert height == HEIGHTS[4]
    assert clean.shape == spoiled.shape == (1, 512 if on_canvas else height, 128)
    np.testing.assert_allclose(clean[0, :height], stored, atol=1e-6)
    np.testing.assert_allclose(spoiled[0, :height], 1 - stored, atol=1e-6)
    assert not clean[0, height:].any()
    assert not spoiled[0, height:].any()


def test_batches_of_like_height_are_an_epoch_in_an_order_of_its_own():
    batches = LikeHeights(HEIGHTS, 4, seed=0)
    epochs = [list(batches) for _ in range(2)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(16))
        assert len(epoch) == len(batches) == 4
        ends = sorted((min(HEIGHTS[batch]), max(HEIGHTS[batch])) for batch in epoch)
        assert all(low[1] <= high[0] for low, high in itertools.pairwise(ends))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("name", [name for name in PEERS if name.startswith("plain script")])
def test_the_plain_script_trains_on_every_page(name, task):
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


def test_flops_are_those_of_the_heights_that_batches_had(task):
    layer = torch.nn.Conv2d(1, 3, 3, padding=1, bias=False)

    def forward(images, heights):
        return layer(images)

    one = Peer(lambda: 0, forward, rows=training.Counter({16: 3, 32: 1}))
    twice = Peer(lambda: 0, lambda *pages: forward(*pages) + forward(*pages), one.rows)
    shares, spent = peers.count_flops({peers.OURS: one, "twice": twice}, task)
    assert shares == {peers.OURS: 1.0, "twice": 2.0}
    # Two FLOPs for each of 27 products at every place, and as many again for the weights' gradient.
    assert spent[peers.OURS] == pytest.approx(4 * 27 * 128 * 20 / 1e9)


def test_a_peer_trains_in_a_process_of_its_own(task):
    name = "plain script, like heights"
    with peer_process(name, task) as peer:
        assert peer.epoch() == peer.epoch() == 16
        assert sum(peer.rows.values()) == 32
        here = PEERS[name](task)
        assert peer.flops(64, 128, CPU) == here.flops(64, 128, CPU)


def test_a_peer_that_is_not_installed_is_named(task, monkeypatch):
    def start(name, task):
        raise ImportError("No module named 'pythae'")

    monkeypatch.setattr(peers, "PEERS", {"pythae": training.pythae_trainer})
    monkeypatch.setattr(peers, "peer_process", start)
    with contextlib.ExitStack() as stack:
        started, missing = peers.start_peers(task, stack)
    assert started == {}
    assert [entry["name"] for entry in missing] == ["pythae"]
    assert "pythae" in missing[0]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_every_peer_learns_and_has_our_models_flops_on_one_canvas(name, task):
    if not INSTALLED.get(name, True):
        pytest.skip(f"{name} is not installed")
    peer = PEERS[name](task)
    model = task.model() if name.endswith("our layers") else task.textbook_model()

    def ours(images, heights):
        return training._through(model, images, heights).reconstruction

    peer.rows[512] += 1
    shares, _ = peers.count_flops({peers.OURS: Peer(lambda: 0, ours, peer.rows), name: peer}, task)
    assert shares[name] == pytest.approx(1.0, abs=0.1)
    images, heights = torch.rand(2, 1, 512, 128), torch.tensor([512, 512])
    before = peer.forward(images, heights).detach()
    assert peer.epoch() == 16
    assert before.shape == images.shape
    assert not torch.equal(peer.forward(images, heights), before)


@pytest.mark.slow
def test_the_quick_run_leaves_a_record_and_a_picture(tmp_path):
    command = [sys.executable, "-m", "benchmarks.peers", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    told = json.loads((tmp_path / "peers.json").read_text())
    report.check(told)
    assert report.table(told) in done.stdout
    assert told["quick"] is True
    named = [entry["name"] for entry in told["results"] + told["missing"]]
    assert sorted(named) == sorted([peers.OURS, *PEERS])
    targets = {entry["against"]: entry["target"] for entry in told["comparisons"]}
    assert targets["plain script, one canvas"] == targets["plain script, like heights"] == 1.5
    picture = np.asarray(Image.open(tmp_path / "peers.png").convert("L"))
    assert picture.std() > 20
