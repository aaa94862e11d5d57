"""Number of operations of a training step."""

import pytest
import torch

from benchmarks.support.batch_size.launches import LaunchCounter, count_launches
from vaetrain.config.experiment import load_experiment

# Half of what it once was, 1,911 and 4,193. Measured on 2026-11-27: tiny 952, base 2,002.
LIMITS = {"tiny": 955, "base": 2096}


def test_views_are_not_counted_and_lists_of_scalars_are_counted_by_tensor():
    tensors, one = [torch.ones(3) for _ in range(5)], torch.ones(())
    with LaunchCounter() as counter:
        (tensors[0].view(3, 1) + 1).mul_(2)
        torch._foreach_mul_(tensors, 2.0)
        torch._foreach_lerp_(tensors, tensors, [one] * 5)
    assert counter.counts == {
        "aten::add": 1,
        "aten::mul_": 1,
        "aten::_foreach_mul_": 1,
        "aten::_foreach_lerp_": 5,
    }


@pytest.mark.parametrize("size", LIMITS)
def test_a_step_has_a_limited_number_of_operations(size):
    """The number hardly depends on the pages, so small ones are counted."""
    settings = [f"model.size={size}", "data.width=64", "data.max_height=128"]
    experiment = load_experiment(None, settings)
    counts = count_launches(experiment, pages=4, rows=128)
    assert sum(counts.values()) <= LIMITS[size], counts
    assert counts["optimizer"] + counts["ema"] < 20
    fewer = count_launches(experiment, pages=2, rows=64)
    assert abs(sum(fewer.values()) - sum(counts.values())) <= 5
