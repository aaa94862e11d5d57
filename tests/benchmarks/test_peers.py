"""The benchmark of trainers: FLOPs of the peers, missing peers, and a quick run."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
import torch

from benchmarks import peers
from benchmarks.support.other_trainers import training
from benchmarks.support.other_trainers.peer import Peer
from tests.benchmarks.quick_run import quick_run


def test_flops_are_weighted_by_the_heights_of_the_batches(task):
    layer = torch.nn.Conv2d(1, 3, 3, padding=1, bias=False)

    def forward(images, heights):
        return layer(images)

    one = Peer(lambda: 0, forward, rows=Counter({16: 3, 32: 1}))
    twice = Peer(lambda: 0, lambda *pages: forward(*pages) + forward(*pages), one.rows)
    shares, gflops = peers.count_flops({peers.OURS: one, "twice": twice}, task)
    assert shares == {peers.OURS: 1.0, "twice": 2.0}
    # Two FLOPs for each of 27 products of an output, and as many for the weights' gradient.
    assert gflops[peers.OURS] == pytest.approx(4 * 27 * 128 * 20 / 1e9)


def test_a_peer_that_is_not_installed_is_reported_missing(task, monkeypatch):
    def start(make, task):
        raise ImportError("No module named 'pythae'")

    monkeypatch.setattr(peers, "PEERS", {"pythae": training.pythae_trainer})
    monkeypatch.setattr(peers, "peer_process", start)
    with contextlib.ExitStack() as stack:
        started, missing = peers.start_peers(task, stack)
    assert started == {}
    assert [entry["name"] for entry in missing] == ["pythae"]
    assert "pythae" in missing[0]["reason"]


@pytest.mark.parametrize(("of_peer", "met"), [(2, True), (1, None)])
def test_a_peer_with_another_number_of_threads_is_not_judged(of_peer, met):
    name = "pythae"
    rates, notes = {peers.OURS: [20.0, 20.0], name: [10.0, 10.0]}, {peers.OURS: {}, name: {}}
    results, (comparison,) = peers.measured_entries(rates, notes, {peers.OURS: 2, name: of_peer})
    assert [entry["threads"] for entry in results] == [2, of_peer]
    assert comparison["met"] is met


@pytest.mark.slow
def test_quick_run_measures_every_peer_that_is_installed(tmp_path):
    record, _ = quick_run("peers", tmp_path)
    names = [entry["name"] for entry in record["results"] + record["missing"]]
    assert sorted(names) == sorted([peers.OURS, *training.PEERS])
    targets = {entry["against"]: entry["target"] for entry in record["comparisons"]}
    assert targets["plain script, one canvas"] == targets["plain script, like heights"] == 1.5
    assert all(entry["threads"] >= 1 for entry in record["results"])
