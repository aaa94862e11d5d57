"""A peer in its own process gives the same results as in this one."""

from __future__ import annotations

import torch

from benchmarks.support.other_trainers.peer import peer_process
from benchmarks.support.other_trainers.training import plain_sorted


def test_a_peer_trains_in_its_own_process(task):
    cpu = torch.device("cpu")
    with peer_process(plain_sorted, task) as peer:
        assert peer.epoch() == peer.epoch() == 16
        assert sum(peer.rows.values()) == 32
        assert peer.threads() == torch.get_num_threads()
        assert peer.flops(64, 128, cpu) == plain_sorted(task).flops(64, 128, cpu)
