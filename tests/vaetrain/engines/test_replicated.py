"""Engines with a whole model on every rank: settings they refuse, and the buckets of DDP."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vaetrain.engines.config import EngineConfig
from vaetrain.engines.replicated import ReplicatedEngine, settle_buckets
from vaetrain.engines.spec import ENGINES
from vaetrain.settings import ConfigError


def test_one_process_has_no_reduction_to_round():
    engine = ReplicatedEngine.__new__(ReplicatedEngine)
    engine.spec = ENGINES["single"]
    with pytest.raises(ConfigError, match=r"^engine\.reduce_dtype: single has one rank"):
        engine._reduce_in_bf16()


class Recorded:
    """Hook of DDP that records the sizes of the buckets of each backward pass."""

    def __init__(self, model):
        self.model, self.sizes = model, []
        model.register_comm_hook(None, self.record)

    def record(self, _, bucket):
        self.sizes[-1].append([gradient.numel() for gradient in bucket.gradients()])
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    def step(self):
        self.sizes.append([])
        self.model(torch.ones(1, 300)).sum().backward()


@pytest.fixture
def alone(tmp_path):
    """Join a process group of one rank."""
    dist.init_process_group("gloo", f"file://{tmp_path}/store", world_size=1, rank=0)
    yield
    dist.destroy_process_group()


class InAnotherOrder(nn.Module):
    """Model whose layers are not called in the order in which they were made."""

    def __init__(self):
        super().__init__()
        self.last, self.first = nn.Linear(290, 310), nn.Linear(300, 290)

    def forward(self, x):
        return self.last(self.first(x))


@pytest.mark.parametrize("settles", [False, True])
def test_the_first_step_has_the_buckets_of_all_others(alone, settles):
    """Otherwise a resumed run of more than two ranks would not have the bits of the other one."""
    module = InAnotherOrder()
    model = DistributedDataParallel(module, bucket_cap_mb=0.5)
    if settles:
        settle_buckets(model)
        assert model.module is module
        assert all(not p.grad.any() for p in model.parameters())
    recorded = Recorded(model)
    for _ in range(3):
        recorded.step()
    first, *others = recorded.sizes
    assert others[0] == others[1]
    assert (first == others[0]) == settles


def test_the_engine_settles_the_buckets_of_its_model(alone):
    engine = ReplicatedEngine.__new__(ReplicatedEngine)
    engine.spec, engine.config = ENGINES["ddp"], EngineConfig()
    wrap = DistributedDataParallel
    engine.accelerator = SimpleNamespace(prepare=lambda model: wrap(model, bucket_cap_mb=0.5))
    module = InAnotherOrder()
    engine._distribute(module, torch.optim.SGD(module.parameters()), micro_batch=1)
    assert all(parameter.grad is None for parameter in module.parameters())
    recorded = Recorded(engine.model)
    for _ in range(2):
        recorded.step()
    assert recorded.sizes[0] == recorded.sizes[1]
