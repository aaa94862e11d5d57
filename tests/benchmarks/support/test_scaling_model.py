"""The model of a step on N ranks, in cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.support import scaling_model as model
from benchmarks.support.scaling_model import Interconnect, Link


def test_a_link_is_recovered_from_its_times():
    sizes = [4096, 65_536, 1 << 20, 10_000_000]
    times = [2 * 5e-5 + size / 2e9 for size in sizes]
    link = model.fit_link(sizes, times)
    assert link.latency == pytest.approx(5e-5)
    assert link.bandwidth == pytest.approx(2e9)
    assert [model.all_reduce_seconds(size, 2, link) for size in sizes] == pytest.approx(times)


def test_small_and_large_messages_have_equal_weight_in_a_fit():
    sizes = np.array([4096, 1 << 24])
    link = model.fit_link(sizes, np.array([1e-4, 1e-2]) * [1.1, 1.0])
    seconds = model.all_reduce_seconds(4096, 2, link)
    assert seconds == pytest.approx(1.1e-4, rel=1e-3)


def test_an_all_reduce_sends_up_to_twice_its_bytes_and_one_rank_none():
    link = Link(1e-5, 1e9)
    assert model.all_reduce_seconds(1e9, 1, link) == 0
    # 2 * 3 / 4 of the bytes, and two messages for each of two doublings, in five buckets.
    assert model.all_reduce_seconds(1e9, 4, link, 5) == pytest.approx(1.5 + 5 * 4e-5)
    times = [model.all_reduce_seconds(1e9, ranks, link) for ranks in (1, 2, 4, 8, 1024)]
    assert times == sorted(times)
    assert times[-1] < 2 + 21e-5


def test_between_machines_each_rank_sends_its_share_of_the_bytes():
    interconnect = Interconnect("two", Link(0, 10e9), Link(0, 1e9), per_machine=4)
    inside = model.over_machines(4e9, 4, interconnect)
    assert inside == pytest.approx(1.5 * 4e9 / 10e9)
    # Two machines: a quarter of the bytes for each of their ranks, sent once.
    assert model.over_machines(4e9, 8, interconnect) == pytest.approx(inside + 1e9 / 1e9)


@pytest.mark.parametrize(("size", "count"), [(10, 1), (1 << 20, 1), ((1 << 20) + 4, 2), (52e6, 3)])
def test_bucket_count_is_that_of_ddp(size, count):
    assert model.buckets(size) == count


def test_expected_maximum_is_the_mean_for_one_rank_and_the_maximum_for_many():
    draws = np.random.default_rng(0).random(10_000)
    assert model.expected_max(draws, 1) == pytest.approx(draws.mean())
    for ranks in (2, 8):  # of uniform draws: N / (N + 1)
        assert model.expected_max(draws, ranks) == pytest.approx(ranks / (ranks + 1), rel=0.01)
    assert model.expected_max(draws[:10], 10_000) == pytest.approx(draws[:10].max())


def test_communication_overlaps_with_the_backward_pass_only():
    step = [0.3, 0.3]
    assert model.step_seconds(step, 2, 0.1, 0.0) == pytest.approx(0.4)
    assert model.step_seconds(step, 2, 0.1, 1.0) == pytest.approx(0.3)
    assert model.step_seconds(step, 2, 0.1, 0.25) == pytest.approx(0.375)
    assert model.step_seconds(step, 2, 0.5, 1.0) == pytest.approx(0.3 + 0.5 - 0.2)


def test_a_single_bucket_does_not_overlap():
    assert model.hidden_share(model.BUCKET / 2) == 0
    assert model.hidden_share(4 * model.BUCKET) == 0.75
