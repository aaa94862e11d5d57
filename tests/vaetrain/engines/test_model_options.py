"""Options of how a model computes, on real and on fake tensors."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vaetrain.engines.model_options import apply_options

CPU = torch.device("cpu")


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 4))


def test_without_options_a_model_stays_as_it_is():
    model, plain, images = small_model(), small_model(), torch.rand(2, 2, 4, 4)
    apply_options(model, CPU)
    assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize("fake", [False, True])
def test_channels_last_lays_out_kernels_and_keeps_other_parameters(fake):
    with FakeTensorMode() if fake else torch.device("cpu"):
        model = small_model()
        model[0].weight.requires_grad_(False)
        linear = model[2].weight
        apply_options(model, CPU, channels_last=True)
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert not model[0].weight.requires_grad
        assert model[2].weight is linear


def test_bf16_computes_in_bf16_and_returns_fp32():
    model, exact, images = small_model(), small_model(), torch.rand(2, 2, 4, 4)
    apply_options(model, CPU, precision="bf16")
    output, expected = model(images), exact(images)
    assert output.dtype == torch.float32
    assert not torch.equal(output, expected)
    torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
