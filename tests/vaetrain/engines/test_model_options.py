"""Options of how a model computes, on real and on fake tensors."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel

from vaetrain.engines.model_options import apply_options, ddp_options
from vaetrain.model.blocks import Stage
from vaetrain.model.config import ModelConfig
from vaetrain.model.masked import MaskedGroupNorm, rows_at

CPU = torch.device("cpu")
quiet_ddp = pytest.mark.filterwarnings("ignore:`broadcast_buffers` is deprecated:FutureWarning")


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


class Graphs(list):
    """The graphs that torch has compiled; the object is a backend, which generates no code."""

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        """Keep a graph and compile it."""
        self.append(graph)
        return aot_eager(graph, inputs)


@pytest.fixture
def graphs() -> Iterator[Graphs]:
    """Give the backend; torch's own settings hold at first, and again after the test."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(
        recompile_limit=8, accumulated_recompile_limit=256, optimize_ddp=True
    ):
        yield Graphs()
    torch._dynamo.reset()


def test_all_blocks_are_compiled_once_for_all_heights(graphs):
    made = []
    compiled, eager = Widths(), Widths()
    apply_options(compiled, CPU, compile=True, compile_backend=graphs)
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
    # All at the first height, at which one of the blocks has a graph more; none at the others.
    assert made == [made[0]] * 4
    assert made[0] <= len(compiled.compiled_blocks) + 1
    assert not counters["graph_break"]


@pytest.fixture
def group() -> Iterator[None]:
    """Give a process group of this process alone."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def wide_stage(channels: int) -> Stage:
    torch.manual_seed(0)
    stage = Stage(ModelConfig(attention="none"), channels, channels, stride=1)
    for parameter in stage.parameters():
        nn.init.normal_(parameter, std=0.05)
    return stage


@quiet_ddp
def test_a_block_of_several_of_ddps_buckets_stays_one_graph(graphs, group):
    """By default torch splits it at the buckets, and fails with some symbolic sizes."""
    channels = 176  # each of the block's two kernels has more than DDP's first bucket of 1 MiB
    eager = wide_stage(channels)
    stage = copy.deepcopy(eager)
    apply_options(stage, CPU, compile=True, compile_backend=graphs)
    compiled = DistributedDataParallel(stage, **ddp_options().to_kwargs())
    for height in (6, 9, 7):
        rows = rows_at(torch.tensor([height, height - 2]), height)
        x = torch.randn(2, channels, height, 4)
        results = [model(x, rows) for model in (compiled, eager)]
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
        for result in results:
            result.square().mean().backward()
    for ours, theirs in zip(stage.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == len(stage.blocks)
    # torch may call the backend again for the same graph; it empties the one that it gives up.
    sizes = [len(convolutions(graph)) for graph in graphs if graph.graph.nodes]
    assert sizes == [2]


def convolutions(graph: torch.fx.GraphModule) -> list[torch.fx.Node]:
    return [node for node in graph.graph.nodes if node.target is torch.conv2d]


@quiet_ddp
def test_ddp_sends_no_buffers_in_forward_passes(group, monkeypatch):
    """The model's only buffer is set from the image count, to the same value on every rank."""
    model, options = nn.BatchNorm1d(3), ddp_options().to_kwargs()  # with buffers
    ours, default = (DistributedDataParallel(model, **given) for given in (options, {}))
    sent: list[str] = []
    monkeypatch.setattr(dist, "_broadcast_coalesced", lambda *_: sent.append("buffers"))
    for _ in range(2):
        ours(torch.randn(4, 3)).sum().backward()
    assert sent == []
    default(torch.randn(4, 3))
    assert sent == ["buffers"]


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
