"""Whole training steps on fake CUDA tensors, on every engine that needs no process group.

Of a step everything is the trainer's own but the backward pass (`fake_backward`) and, under ZeRO,
DeepSpeed (`FakeDeepSpeed`). With offload the masters, the optimizer's states and the EMA lie in
host memory; without, no tensor but a checkpoint's may be there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from launch.diagnosis.device_path import OnlyOnDevice
from tests.support.fake_devices import (
    CUDA,
    PAGES,
    ROWS,
    WIDTH,
    NoMixedDevices,
    Step,
    UsedDtypes,
    a_batch,
    allow_autocast,
    fake_backward,
)
from tests.support.fake_engines import prepared
from vaetrain.config.experiment import Experiment, load_experiment
from vaetrain.engines.base import AVERAGE, Engine
from vaetrain.engines.model_options import apply_options
from vaetrain.engines.optimizers import MOMENTS
from vaetrain.engines.spec import ENGINES
from vaetrain.gan.discriminators import build_discriminator
from vaetrain.gan.trainer import GanTrainer
from vaetrain.meters import Meter
from vaetrain.model.vae import VAE
from vaetrain.schedules import Clock
from vaetrain.training.state import TrainingState

LEARNED = ("loss.combine=learned", "beta.schedule=controller", "beta.target_kl=10")
GAN = ("gan.enabled=true", "gan.start_epoch=0", "gan.regularizer=lecam")
ONE_RANK = ["single", *(name for name in ENGINES if name.startswith("zero"))]
OFFLOADED = [name for name in ONE_RANK if ENGINES[name].offload]


class Training:
    """Parts of a run on fake CUDA tensors, and its steps."""

    def __init__(self, name: str, precision: str, *settings: str) -> None:
        """Build all parts; call it under fake tensors with CUDA as the default device."""
        settings = ("train.global_batch_size=8", *settings)
        self.step = Step("default", *settings)
        model = self.step.model
        self.engine: Engine
        apply_options(model, CUDA, precision=precision)
        self.engine = prepared(name, precision, model)
        self.step.forward.model = self.engine.model
        experiment = load_experiment(None, [f"model.latent_dim={model.latent_dim}", *settings])
        clock = Clock(epoch_images=10, global_batch_size=2 * PAGES, horizon=100)
        with torch.device("meta"):
            skeleton = VAE(experiment.model, WIDTH, ROWS)
        objective = self.step.forward.objective
        self.state = self._state(experiment, clock, objective, skeleton)
        self.meter = Meter(self.engine, objective.parts)

    def _state(self, experiment: Experiment, clock: Clock, *parts: object) -> TrainingState:
        # `Module.to`, which the training state calls, does not work on fake parameters.
        gan, experiment.gan.enabled = experiment.gan.enabled, False
        state = TrainingState(experiment, clock, self.engine, *parts)
        if gan:
            discriminator = build_discriminator(experiment.gan)
            state.gan = GanTrainer(experiment.gan, discriminator, clock, self.engine)
        return state

    def run(self, steps: int = 2) -> None:
        """Take optimizer steps of two micro batches."""
        for number in range(steps):
            images = (number + 1) * 2 * PAGES
            self.state.begin(images)
            weights = self.state.weights_at(1.0)
            kl = torch.zeros((), device=CUDA)
            for last in (False, True):
                batch = a_batch(pictures=False)
                with self.engine.micro_batch(last=last):
                    losses, parts = self.step.forward(batch, weights, 0.5, self.state.active_gan)
                    self.engine.backward(losses, 2 * PAGES)
                rows = torch.full_like(batch.heights, ROWS)
                self.meter.add_samples(parts | {"valid_rows": batch.heights, "rows": rows})
                kl += parts["kl"].sum()
            norm, applied = self.state.step(images, kl)
            self.meter.add_step(norm, 0.5, applied)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    monkeypatch.setattr(torch.Tensor, "backward", fake_backward)
    allow_autocast(monkeypatch)
    with FakeTensorMode() as mode:
        yield mode


def train(name: str, precision: str, *settings: str) -> Training:
    with torch.device(CUDA):
        training = Training(name, precision, *settings)
    # With offload a step copies between the devices, but computes on one at a time.
    mode = NoMixedDevices() if ENGINES[name].offload else OnlyOnDevice()
    with mode, contextlib.nullcontext():
        training.run()
    return training


@pytest.mark.parametrize(
    "settings",
    [(), pytest.param(LEARNED, marks=pytest.mark.slow), GAN],
    ids=["plain", "learned", "gan"],
)
@pytest.mark.parametrize("name", ONE_RANK)
def test_steps_never_mix_devices(fake, name, settings):
    training = train(name, "no", *settings)
    kind = "cpu" if ENGINES[name].offload else "cuda"
    for state in (AVERAGE, *MOMENTS):
        assert {slice.device.type for slice in training.engine.slices(state)} == {kind}


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
@pytest.mark.parametrize("name", ["single", "zero2", "zero2_offload"])
def test_steps_in_half_precision_never_mix_devices(fake, name, precision, dtype):
    with UsedDtypes() as used:
        training = train(name, precision, *LEARNED, *GAN[:2])
    assert dtype in used.found
    assert {p.dtype for p in training.engine.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ONE_RANK)
def test_checkpoints_leave_and_enter_by_the_host(fake, name):
    training = train(name, "no")
    engine, ema = training.engine, training.state.ema
    with NoMixedDevices():
        saved = engine.collect(engine.optimizer_state())
        weights, average = engine.collect(engine.weights()), engine.collect(ema.tensors())
        assert {tensor.device.type for tensor in (saved | weights).values()} == {"cpu"}
        engine.load_optimizer_state(saved)
        engine.scatter(AVERAGE, average)
        evaluated = ema.model()
    assert {value.device for value in evaluated.state_dict().values()} == {CUDA}


def share_on_the_device(averages: list[Tensor], weights: list[Tensor], share: Tensor) -> None:
    torch._foreach_lerp_(averages, weights, [share] * len(averages))


@pytest.mark.parametrize("name", OFFLOADED)
def test_a_scalar_on_the_device_is_refused_among_offloaded_slices(fake, name):
    with torch.device(CUDA):
        training = Training(name, "no")
    averages, weights = (training.engine.slices(kind) for kind in (AVERAGE, "weight"))
    share = torch.ones((), device=CUDA)
    share_on_the_device(averages, weights, share)  # fake tensors alone do not notice
    with NoMixedDevices(), pytest.raises(AssertionError, match="cpu and cuda"):
        share_on_the_device(averages, weights, share)


def test_a_step_count_on_the_host_is_refused_by_fused_optimizers(fake):
    with torch.device(CUDA):
        training = Training("single", "no")
    for state in training.engine.adamw.state.values():
        state["step"] = torch.zeros(())
    with NoMixedDevices(), pytest.raises((AssertionError, RuntimeError)):
        training.run(1)
