"""Engines of several ranks in torch's fake process group, whose collectives send nothing.

FSDP2's forward pass starts CUDA streams, so it runs on fake tensors of the CPU; preparation, the
optimizer step, the EMA and checkpoints run on fake CUDA tensors. Of DDP everything but the reducer
in its backward pass runs on fake CUDA tensors. Values are tested by `tests/distributed`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from launch.diagnosis.device_path import OnlyOnDevice
from tests.support.fake_devices import (
    CPU,
    CUDA,
    PAGES,
    NoMixedDevices,
    Step,
    a_batch,
    fake_backward,
)
from tests.support.fake_engines import CLIP, start
from tests.vaetrain.device.test_steps import GAN, LEARNED, Training
from vaetrain.engines import fsdp
from vaetrain.engines.base import AVERAGE, GRACE_SECONDS, WEIGHT
from vaetrain.engines.config import OptimizerConfig
from vaetrain.engines.fsdp import FsdpEngine
from vaetrain.engines.launching.rank_variables import Ranks
from vaetrain.engines.model_options import apply_options
from vaetrain.engines.optimizers import MOMENTS, build_optimizer
from vaetrain.engines.spec import ENGINES, SHARD_SIZE
from vaetrain.settings import ConfigError
from vaetrain.training.ema import WeightEma

RANKS, RANK = 4, 1


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    dist.init_process_group("fake", rank=RANK, world_size=RANKS, store=FakeStore())
    yield
    dist.destroy_process_group()


def fsdp_engine(model: nn.Module, device: torch.device, precision: str = "no") -> FsdpEngine:
    """Return the prepared engine; call it under fake tensors."""
    engine = FsdpEngine.__new__(FsdpEngine)
    start(engine, "fsdp2", precision)
    engine.device, engine.rank, engine.world_size = device, RANK, RANKS
    engine.is_main = False
    engine.options = {"fsdp_reshard_after_forward": "true", "fsdp_min_num_params": "1000"}
    engine.scaler = torch.amp.GradScaler(device.type, enabled=False)
    optimizer = build_optimizer(model, OptimizerConfig())
    engine.prepare(model, optimizer, micro_batch=PAGES, accumulation=1, clip_norm=CLIP)
    return engine


@pytest.fixture
def sharded(group: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FsdpEngine]:
    """Return an engine with a model on fake CUDA tensors, under their mode."""
    mesh = init_device_mesh("cuda", (RANKS,))  # it reads values, which fake tensors lack
    monkeypatch.setattr(fsdp, "init_device_mesh", lambda *_: mesh)
    with FakeTensorMode():
        with torch.device(CUDA):
            model = Step("none").model
        yield fsdp_engine(model, CUDA)


def take_step(engine: FsdpEngine, ema: WeightEma) -> Tensor:
    for parameter in engine.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    norm = engine.step(1e-3)
    ema.update(8, 8, norm.isfinite())
    return norm


def test_fsdp2_steps_and_averages_its_slices_on_the_device(sharded):
    whole = sum(p.numel() for p in sharded.module.parameters())
    ema = WeightEma(sharded, sharded.module, 100.0)
    with OnlyOnDevice():
        norm = take_step(sharded, ema)
    assert (norm.shape, norm.device) == ((), CUDA)
    assert not isinstance(norm, DTensor)
    for kind in (WEIGHT, AVERAGE, *MOMENTS):
        slices = sharded.slices(kind)
        assert {part.device for part in slices} == {CUDA}
        assert sum(part.numel() for part in slices) < 0.3 * whole


def test_fsdp2_gathers_and_scatters_whole_tensors(sharded):
    shapes = {name: p.shape for name, p in sharded.module.named_parameters()}
    ema = WeightEma(sharded, sharded.module, 100.0)
    with NoMixedDevices():
        for kind in (AVERAGE, MOMENTS[0]):
            whole = {name: tensor.cpu() for name, tensor in sharded.gather(kind)}
            assert {name: tensor.shape for name, tensor in whole.items()} == shapes
            sharded.scatter(kind, whole)
        assert {t.device for _, t in ema.tensors()} == {CUDA}
        sharded.load_optimizer_state({k: v.cpu() for k, v in sharded.optimizer_state()})


def test_a_norm_on_the_host_is_refused(sharded, monkeypatch):
    ema = WeightEma(sharded, sharded.module, 100.0)
    clip = sharded._clip
    monkeypatch.setattr(sharded, "_clip", lambda: clip().cpu())
    with OnlyOnDevice(), pytest.raises(AssertionError, match="on the cpu"):
        take_step(sharded, ema)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_fsdp2_trains_on_fake_tensors_of_the_cpu(
    group, monkeypatch, precision, checkpoint_activations
):
    mesh = init_device_mesh("cpu", (RANKS,))
    monkeypatch.setattr(fsdp, "init_device_mesh", lambda *_: mesh)
    with FakeTensorMode():
        step = Step("default", device=CPU)
        apply_options(
            step.model,
            CPU,
            precision=precision,
            shards_weights=True,
            checkpoint_activations=checkpoint_activations,
        )
        engine = fsdp_engine(step.model, CPU, precision)
        step.forward.model = engine.model
        ema = WeightEma(engine, engine.module, 100.0)
        for images in (8, 16):
            losses, _ = step.losses(a_batch(False, CPU))
            engine.backward(losses, PAGES * RANKS)
            parameters = list(engine.module.parameters())
            assert all(isinstance(p.grad, DTensor) for p in parameters)
            assert {p.grad.dtype for p in parameters} == {torch.float32}
            ema.update(images, 8, engine.step(1e-3).isfinite())
        assert all(p.grad is None for p in engine.module.parameters())


@pytest.mark.parametrize("settings", [(), LEARNED, GAN], ids=["plain", "learned", "gan"])
def test_collectives_of_a_replicated_step_stay_on_the_device(group, monkeypatch, settings):
    sent = record_sums(monkeypatch)
    run_replicated(monkeypatch, settings)
    assert {values.device for values in sent} == ({CUDA} if settings else set())


def test_a_collective_on_the_host_is_refused(group, monkeypatch):
    all_reduce = dist.all_reduce
    monkeypatch.setattr(dist, "all_reduce", lambda values, *op: all_reduce(values.cpu(), *op))
    with pytest.raises(AssertionError, match="on the cpu"):
        run_replicated(monkeypatch, LEARNED)


def record_sums(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list of the tensors that are summed over the ranks from now on."""
    sent, all_reduce = [], dist.all_reduce
    monkeypatch.setattr(
        dist, "all_reduce", lambda values, *op: sent.append(values) or all_reduce(values, *op)
    )
    return sent


def run_replicated(monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]) -> None:
    monkeypatch.setattr(torch.Tensor, "backward", fake_backward)
    with FakeTensorMode():
        with torch.device(CUDA):
            training = Training("single", "no", *settings)
        training.engine.world_size = RANKS
        with OnlyOnDevice():
            training.run(1)


@pytest.fixture
def hybrid(monkeypatch: pytest.MonkeyPatch) -> FsdpEngine:
    """Return an engine of four ranks as two copies, without a model; no group is made."""
    engine = FsdpEngine.__new__(FsdpEngine)
    engine.spec, engine.options = ENGINES["fsdp2_hybrid"], {SHARD_SIZE: "2"}
    engine.rank, engine.world_size, engine.device = RANK, RANKS, CPU
    engine.timeout, engine.heartbeat = 7.0, None
    monkeypatch.setattr(fsdp, "init_device_mesh", lambda _, shape: shape)
    monkeypatch.setattr(
        fsdp.dist,
        "new_subgroups_by_enumeration",
        lambda ranks, timeout: ((ranks, timeout.total_seconds()),),
    )
    monkeypatch.setattr(
        fsdp.DeviceMesh, "from_group", lambda groups, *_, mesh_dim_names: [*groups, mesh_dim_names]
    )
    return engine


def test_a_copy_of_the_model_is_on_consecutive_ranks(hybrid):
    limit = hybrid.timeout + GRACE_SECONDS
    between, within, names = hybrid._make_mesh()
    assert between == ([[0, 2], [1, 3]], limit)
    assert within == ([[0, 1], [2, 3]], limit)
    assert names == ("copies", "shards")


def test_a_copy_of_the_model_is_on_a_machine_by_default(hybrid, monkeypatch):
    hybrid.options = {SHARD_SIZE: "1"}
    monkeypatch.setattr(fsdp, "read_ranks", lambda _: Ranks(local_world_size=4))
    assert hybrid._make_mesh() == (4,)
    monkeypatch.setattr(fsdp, "read_ranks", lambda _: Ranks(local_world_size=2))
    assert hybrid._make_mesh()[1][0] == [[0, 1], [2, 3]]


def test_a_machine_with_one_rank_cannot_split_a_copy(hybrid, monkeypatch):
    hybrid.options = {SHARD_SIZE: "1"}
    monkeypatch.setattr(fsdp, "read_ranks", lambda _: Ranks())
    with pytest.raises(ConfigError, match="each machine has one rank"):
        hybrid._make_mesh()
