"""FLOPs and bytes of operations by hand count, and labels of layers in a trace."""

from __future__ import annotations

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.support import operation_costs


def test_flops_of_a_convolution_by_hand():
    arguments = {
        "Input Dims": [[2, 3, 8, 6], [5, 3, 3, 3], [], [], [], [], [], [], []],
        "Concrete Inputs": ["", "", "", "[2, 1]", "[1, 1]", "[1, 1]", "False", "[0, 0]", "1"],
    }
    # 2 pages x 4 x 6 positions x 5 channels, each of 3 x 3 x 3 products and sums.
    assert operation_costs.flops("aten::convolution", arguments) == 2 * (2 * 4 * 6 * 5) * (
        3 * 3 * 3
    )
    assert (
        operation_costs.flops("aten::conv2d", arguments) == 0
    )  # the aten::convolution it calls counts


def test_inputs_are_read_once_and_the_output_written_once():
    two = {"Input Dims": [[4, 8], [4, 8]], "Input type": ["float", "float"]}
    assert operation_costs.bytes_moved("aten::add", two) == 3 * 4 * 32
    assert operation_costs.bytes_moved("aten::add_", two) == 3 * 4 * 32
    assert operation_costs.bytes_moved("aten::view", two) == 0
    one = {"Input Dims": [[4, 8], []], "Input type": ["c10::BFloat16", "Scalar"]}
    assert operation_costs.bytes_moved("aten::sum", one) == 2 * 32
    several = {"Input Dims": [[[2], [3]], [[2], [3]]], "Input type": ["TensorList", "TensorList"]}
    assert operation_costs.bytes_moved("aten::_foreach_add_", several) == 3 * 4 * 5


def test_layers_are_labelled_until_the_hooks_are_removed():
    model = nn.Sequential(nn.Linear(4, 2), nn.SiLU())

    def labels() -> list[str]:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            model(torch.zeros(1, 4))
        return [each.name for each in profiler.events() if each.name.startswith("layer: ")]

    hooks = operation_costs.label_modules(model)
    assert labels() == ["layer: linear layers"]
    for hook in hooks:
        hook.remove()
    assert labels() == []


def test_purpose_of_a_loss_range_is_its_name():
    assert operation_costs.purpose_of_range("loss: ssim") == "loss: ssim"
    assert operation_costs.purpose_of_range("layer: convolution") == "convolution"
    assert operation_costs.purpose_of_range("unknown") is None
