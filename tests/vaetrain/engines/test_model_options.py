"""Options of how a model computes, on real and on fake tensors."""

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from vaetrain.engines.model_options import apply_options
from vaetrain.model.masked import MaskedGroupNorm, rows_at

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


class Residual(nn.Module):
    """Block of a given width, with a manual gradient as in the model."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = MaskedGroupNorm(channels)

    def forward(self, x, rows):
        """Map (B, C, H, W) to the same shape."""
        return x + self.norm(self.conv(x), rows)


class Widths(nn.Module):
    """Model of more blocks of different widths than torch recompiles by default."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.compiled_blocks = nn.ModuleList(Residual(channels) for channels in range(2, 11))

    def forward(self, x, heights):
        """Map (B, 1, H, W) to the sum of all blocks' maps, (B, H, W)."""
        rows = rows_at(heights, x.shape[2])
        results = [b(x.expand(-1, n, -1, -1), rows) for n, b in enumerate(self.compiled_blocks, 2)]
        return sum(each.sum(dim=1) for each in results)


def test_all_blocks_are_compiled_once_for_all_heights():
    torch._dynamo.reset()
    counters.clear()
    limit = torch._dynamo.config.recompile_limit
    graphs, made = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    try:
        torch._dynamo.config.recompile_limit = 8
        compiled, eager = Widths(), Widths()
        apply_options(compiled, CPU, compile=True, compile_backend=backend)
        for rows in (24, 40, 17, 33):
            heights = torch.tensor([rows, rows - 5, 3])
            images = torch.rand(3, 1, rows, 12)
            results = [model(images, heights) for model in (compiled, eager)]
            torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
            for result in results:
                result.square().sum().backward()
            made.append(len(graphs))
        gradients = [[p.grad for p in model.parameters()] for model in (compiled, eager)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-3)
    finally:
        torch._dynamo.config.recompile_limit = limit
        torch._dynamo.reset()
    # All at the first height, at which one of the blocks has a graph more; none at the others.
    assert made == [made[0]] * 4
    assert made[0] <= len(compiled.compiled_blocks) + 1
    assert not counters["graph_break"]


def test_autocast_keeps_no_copies_of_weights_that_the_engine_shards():
    """With and without the copies the results are equal to the last bit."""
    images, results = torch.rand(2, 2, 4, 4), []
    for shards_weights in (False, True):
        model, caches = small_model(), []
        model[0].register_forward_hook(
            lambda *_, seen=caches: seen.append(torch.is_autocast_cache_enabled())
        )
        apply_options(model, CPU, precision="bf16", shards_weights=shards_weights)
        output = model(images)
        output.sum().backward()
        results.append([output, *(parameter.grad for parameter in model.parameters())])
        assert caches == [not shards_weights]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
