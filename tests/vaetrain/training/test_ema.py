"""EMA of the weights: half-life in images, evaluation model, loading."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.support.batch_size.launches import LaunchCounter
from vaetrain.engines.base import AVERAGE, WEIGHT
from vaetrain.engines.config import OptimizerConfig
from vaetrain.engines.optimizers import build_optimizer
from vaetrain.engines.spec import Launch
from vaetrain.engines.start import start_engine
from vaetrain.training.ema import WeightEma, mix, move_towards


def ema_of(model: nn.Module, half_life: float) -> WeightEma:
    """Return the EMA of a model in one process."""
    engine = start_engine(Launch("single", 1, "no"))
    skeleton = copy.deepcopy(model).to("meta")
    optimizer = build_optimizer(model, OptimizerConfig())
    engine.prepare(model, optimizer, micro_batch=1, accumulation=1, clip_norm=0.0)
    return WeightEma(engine, skeleton, half_life)


def share_left(half_life: float, images: int, step: int, start: int = 10**9) -> float:
    """Return the EMA of a weight that starts at 1 and is 0 for `images` images."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = ema_of(model, half_life)
    nn.init.zeros_(model.weight)
    for seen in range(step, images + 1, step):
        ema.update(start + seen, step, torch.tensor(True))
    return float(ema.model().weight)


@pytest.mark.parametrize("step", [1, 10, 50])
def test_half_is_left_after_the_half_life_for_any_batch_size(step):
    assert share_left(100, 100, step) == pytest.approx(0.5, rel=1e-4)
    assert share_left(100, 300, step) == pytest.approx(0.125, rel=1e-4)


def test_half_life_is_shorter_early_in_training():
    assert share_left(10_000, 100, 10, start=0) < 1e-6 < share_left(10_000, 100, 10)


def test_half_life_of_zero_equals_the_weights():
    assert share_left(0, 1, 1) == 0


def test_averaged_model_is_frozen_in_evaluation_mode():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model[1].running_mean.fill_(7)
    evaluated = ema_of(model, 10).model()
    assert not evaluated.training
    assert not any(p.requires_grad for p in evaluated.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(evaluated.state_dict()[name], value)


def test_scattered_tensors_are_the_ema():
    ema = ema_of(nn.Linear(2, 3), 10)
    tensors = {"weight": torch.rand(3, 2), "bias": torch.rand(3)}
    ema.engine.scatter(AVERAGE, tensors)
    for name, value in ema.tensors():
        torch.testing.assert_close(value, tensors[name])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_the_multi_tensor_form_of_gpus_equals_lerp(share):
    torch.manual_seed(0)
    averages, weights = ([torch.randn(7), torch.randn(3, 5)] for _ in range(2))
    expected = [a.lerp(w, share) for a, w in zip(averages, weights, strict=True)]
    before = [average.clone() for average in averages]
    mix(averages, weights, torch.tensor(share))
    torch.testing.assert_close(averages, expected, rtol=1e-6, atol=1e-6)
    exact = {0.0: before, 1.0: weights}.get(share)
    assert exact is None or all(map(torch.equal, averages, exact))


def test_offloaded_slices_are_averaged_in_host_memory():
    """The share is on a fake GPU."""
    with FakeTensorMode():
        averages, weights = ([torch.ones(3), torch.ones(2, 2)] for _ in range(2))
        move_towards(averages, weights, torch.ones((), device="cuda"))
    assert {average.device.type for average in averages} == {"cpu"}


class FakeSlices(SimpleNamespace):
    """The slices of an engine, and its EMA's, on a fake GPU."""

    def keep_average(self) -> None:
        """Do nothing: the averages are there."""

    def slices(self, kind: str) -> list[torch.Tensor]:
        """Return the tensors of a kind."""
        return getattr(self, kind)


def test_the_number_of_operations_on_a_gpu_does_not_grow_with_the_model():
    counts = []
    for tensors in (2, 200):
        with FakeTensorMode(), torch.device("cuda"):
            parts = {kind: [torch.ones(3) for _ in range(tensors)] for kind in (AVERAGE, WEIGHT)}
            ema = WeightEma(FakeSlices(**parts), nn.Identity(), 10.0)
            with LaunchCounter() as counter:
                ema.update(1000, 8, torch.ones((), dtype=torch.bool))
        counts.append(counter.total)
    assert counts[0] == counts[1] <= 7
