"""GAN trainer: schedule, independence of the batch split, resume, gradients and logged means."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor

from tests.support.engines import FakeEngine
from vaetrain.gan import losses
from vaetrain.gan.config import GanConfig
from vaetrain.gan.discriminators import build_discriminator
from vaetrain.gan.trainer import GanTrainer, gan_step_at
from vaetrain.losses.pixel import bce_with_logits, levels_nll
from vaetrain.model.config import ModelConfig
from vaetrain.model.masked import rows_at
from vaetrain.model.outputs import LevelsOutput, SigmoidOutput
from vaetrain.model.vae import VAEOutput
from vaetrain.schedules import Clock, LrConfig

BATCH = 8
CLOCK = Clock(epoch_images=16, global_batch_size=BATCH, horizon=160)
HEIGHTS = torch.tensor([32, 9, 17, 30, 25, 3, 32, 16])
QUICK = GanConfig(
    enabled=True,
    channels=4,
    start_epoch=0.0,
    warmup_epochs=0.0,
    lr=1e-2,
    schedule=LrConfig("constant", warmup_epochs=0.0),
)
KINDS = {
    "hinge": QUICK,
    "light-r1": dataclasses.replace(
        QUICK, discriminator="light", loss="nonsaturating", regularizer="r1"
    ),
    "lecam-features": dataclasses.replace(
        QUICK,
        loss="leastsquares",
        regularizer="lecam",
        regularizer_weight=0.1,
        feature_matching=2.0,
    ),
    "two-updates": dataclasses.replace(QUICK, updates=2.0, clip_norm=0.05),
}


def a_gan_trainer(config: GanConfig, clock: Clock = CLOCK, seed: int = 0, ranks: int = 1):
    torch.manual_seed(seed)
    return GanTrainer(config, build_discriminator(config), clock, FakeEngine(world_size=ranks))


def an_output(page: Tensor, logits: Tensor | None = None) -> VAEOutput:
    nothing = torch.zeros(len(page), 0)
    return VAEOutput(page, nothing, nothing, nothing, page if logits is None else logits)


def pages(seed: int) -> tuple[Tensor, Tensor]:
    """Return originals with sharp edges, and noisy reconstructions of lower contrast."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.rand(BATCH, 1, 8, 8, generator=generator).round()
    real = real.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    fake = 0.5 * real + 0.2 * torch.rand(real.shape, generator=generator)
    below = torch.arange(32)[:, None] >= HEIGHTS[:, None, None, None]
    return real.masked_fill(below, 0), fake.masked_fill(below, 0)


def train_step(gan: GanTrainer, step: int, micro: int = BATCH) -> Tensor:
    """Take a step with reconstructions that are leaves; return their gradient."""
    gan.begin(BATCH * step)
    assert gan.current is not None
    real, fake = pages(step)
    fake.requires_grad_()
    for start in range(0, BATCH, micro):
        part = slice(start, start + micro)
        output, fake_view = gan.fork(an_output(fake[part]), HEIGHTS[part])
        page = output.reconstruction
        losses = (page - real[part]).abs().mean(dim=(1, 2, 3))
        losses = losses + gan.generator_terms(page, fake_view, real[part], HEIGHTS[part])
        (losses.sum() / BATCH).backward()
    gan.step(torch.tensor(True))
    return fake.grad


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (24, None),
        (32, (0.0, 1, 0.0)),
        (40, (0.0, 1, 0.1)),
        (56, (1.0, 1, 0.2)),
        (160, (1.0, 1, 0.2)),
    ],
)
def test_schedule_starts_at_start_epoch(images, expected):
    config = GanConfig(start_epoch=2.0, warmup_epochs=1.5, lr=0.2)
    config.schedule = LrConfig("constant", warmup_epochs=1.0)
    assert gan_step_at(config, CLOCK, images) == (expected and pytest.approx(expected))


def test_cosine_schedule_ends_with_training():
    config = GanConfig(start_epoch=2.0, lr=0.2)
    config.schedule = LrConfig("cosine", warmup_epochs=0.0, floor=0.0)
    rates = [gan_step_at(config, CLOCK, images).lr for images in (32, 96, 160)]
    assert rates == pytest.approx([0.2, 0.1, 0.0])


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1.0, [1] * 6), (0.5, [0, 1] * 3), (2.0, [2] * 6), (1.5, [1, 2] * 3)]
)
def test_number_of_updates_keeps_the_ratio(ratio, expected):
    config = dataclasses.replace(QUICK, updates=ratio)
    assert [gan_step_at(config, CLOCK, BATCH * step).updates for step in range(1, 7)] == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro", [4, 2, 1])
def test_split_into_micro_batches_does_not_change_the_result(kind, micro):
    whole, split = a_gan_trainer(KINDS[kind]), a_gan_trainer(KINDS[kind])
    for step in (1, 2, 3):
        expected, found = train_step(whole, step), train_step(split, step, micro)
        torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-4)
    for name, value in whole.tensors().items():
        torch.testing.assert_close(split.tensors()[name], value, atol=1e-6, rtol=1e-4)
    assert split.read() == pytest.approx(whole.read(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_resume_gives_identical_bits(kind):
    whole, stopped = a_gan_trainer(KINDS[kind]), a_gan_trainer(KINDS[kind])
    for step in (1, 2):
        train_step(whole, step)
        train_step(stopped, step)
    tensors = {name: value.clone() for name, value in stopped.tensors().items()}
    state = json.loads(json.dumps(stopped.state()))
    resumed = a_gan_trainer(KINDS[kind], seed=7)
    resumed.load_tensors(tensors)
    resumed.load(state)
    for step in (3, 4):
        assert torch.equal(train_step(resumed, step), train_step(whole, step))
    assert resumed.tensors().keys() == whole.tensors().keys()
    for name, value in whole.tensors().items():
        assert torch.equal(resumed.tensors()[name], value), name
    assert resumed.read() == whole.read()


def test_vae_gets_the_weighed_gradient_and_the_discriminator_none():
    config = dataclasses.replace(KINDS["lecam-features"], weight=0.3, feature_matching=2.0)
    gan = a_gan_trainer(config)
    train_step(gan, 1)
    real, fake = pages(2)
    fake.requires_grad_()
    gan.begin(2 * BATCH)
    output, fake_view = gan.fork(an_output(fake), HEIGHTS)
    page = output.reconstruction
    terms = gan.generator_terms(page, fake_view, real, HEIGHTS)
    terms.sum().backward()
    assert all(parameter.grad is None for parameter in gan.discriminator.parameters())

    x = fake.detach().clone().requires_grad_()
    originals, fake_output = gan.discriminator(real, HEIGHTS), gan.discriminator(x, HEIGHTS)
    assert 0 < gan.balance.weight.item() != 1
    expected = 0.3 * gan.balance.weight * losses.generator_loss(gan.loss, fake_output)
    expected = expected + 2.0 * losses.feature_distance(originals, fake_output)
    torch.testing.assert_close(terms, expected)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(fake.grad, gradient)


@pytest.mark.parametrize(
    ("kind", "pixel_loss", "channels"),
    [(SigmoidOutput, bce_with_logits, 1), (LevelsOutput, levels_nll, 20)],
)
def test_gradients_are_measured_at_logits_where_the_pixel_loss_uses_them(
    kind, pixel_loss, channels
):
    config = dataclasses.replace(QUICK, weight=0.3)
    decoded = kind(ModelConfig())
    torch.manual_seed(0)
    gan = GanTrainer(config, build_discriminator(config), CLOCK, FakeEngine(), output=decoded)
    gan.begin(BATCH)
    assert gan.current is not None
    real, _ = pages(1)
    logits = torch.randn(BATCH, channels, 32, 32, requires_grad=True)
    rows = rows_at(HEIGHTS, 32)
    output, fake_view = gan.fork(an_output(decoded.page(logits, rows), logits), HEIGHTS)
    below = torch.arange(32)[:, None] >= HEIGHTS[:, None, None, None]
    torch.testing.assert_close(fake_view, decoded.page(logits, rows))
    assert (fake_view[below.expand_as(fake_view)] == 0).all()
    torch.testing.assert_close(output.reconstruction, fake_view)

    terms = gan.generator_terms(output.reconstruction, fake_view, real, HEIGHTS)
    pixel = pixel_loss(output.logits, real, HEIGHTS)
    (pixel.sum() + terms.sum()).backward()
    free = logits.detach().clone().requires_grad_()
    pixel_gradient = torch.autograd.grad(pixel_loss(free, real, HEIGHTS).sum(), free)[0]
    fake_output = gan.discriminator(decoded.page(free, rows), HEIGHTS)
    gan_gradient = torch.autograd.grad(
        losses.generator_loss(losses.HINGE, fake_output).sum(), free
    )[0]
    norms = [pixel_gradient.square().sum().item(), gan_gradient.square().sum().item()]
    assert gan.balance.squares.tolist() == pytest.approx(norms, rel=1e-5)
    torch.testing.assert_close(logits.grad, pixel_gradient + 0.3 * gan_gradient)


def test_warm_up_trains_only_the_discriminator():
    gan = a_gan_trainer(dataclasses.replace(KINDS["lecam-features"], warmup_epochs=1.0))
    before = {name: value.clone() for name, value in gan.tensors().items()}
    gan.begin(BATCH)
    assert gan.current is not None
    real, fake = pages(1)
    fake.requires_grad_()
    output, fake_view = gan.fork(an_output(fake), HEIGHTS)
    page = output.reconstruction
    terms = gan.generator_terms(page, fake_view, real, HEIGHTS)
    assert torch.equal(terms, torch.zeros(BATCH))
    ((page - real).square().sum() + terms.sum()).backward()
    torch.testing.assert_close(fake.grad, 2 * (fake - real).detach())
    gan.step(torch.tensor(True))
    weights = [name for name in before if name.endswith(("original", "bias"))]
    assert weights
    assert not any(torch.equal(gan.tensors()[name], before[name]) for name in weights)
    assert gan.balance.weight.item() != 1  # known before the first step after the warm-up


@pytest.mark.parametrize(("updates", "renewals"), [(1.0, 4), (2.0, 8), (0.5, 2)])
def test_one_power_iteration_per_update(updates, renewals, monkeypatch):
    gan = a_gan_trainer(dataclasses.replace(QUICK, updates=updates))
    counted = []
    renew = gan.discriminator.renew_spectral_norms
    monkeypatch.setattr(
        gan.discriminator, "renew_spectral_norms", lambda: (counted.append(1), renew())
    )
    for step in (1, 2, 3, 4):
        train_step(gan, step, micro=2)
    assert len(counted) == renewals
    assert gan.update_means.count == renewals


@pytest.mark.parametrize("kind", KINDS)
def test_discriminator_learns(kind):
    gan = a_gan_trainer(KINDS[kind])
    train_step(gan, 1)
    first = gan.read()
    for step in range(2, 61):
        train_step(gan, step)
        if step == 50:
            gan.read()
    means = gan.read()
    assert means["d_accuracy"] > 0.8
    assert means["d_loss"] < 0.9 * first["d_loss"]
    assert means["d_logit_real"] > means["d_logit_fake"]
    assert "r1" in means if kind == "light-r1" else "r1" not in means


def test_rounding_errors_do_not_move_weights():
    """Where pages equal their originals a hinge's gradients cancel, up to rounding errors."""
    gan = a_gan_trainer(QUICK)
    before = [parameter.clone() for parameter in gan.discriminator.parameters()]
    real, _ = pages(1)
    for step in (1, 2, 3):
        gan.begin(BATCH * step)
        for part in (slice(0, 3), slice(3, BATCH)):
            output, fake_view = gan.fork(an_output(real[part]), HEIGHTS[part])
            gan.generator_terms(output.reconstruction, fake_view, real[part], HEIGHTS[part])
        gan.step(torch.tensor(True))
    after = gan.discriminator.parameters()
    moved = max((a - b).abs().max().item() for a, b in zip(after, before, strict=True))
    assert moved < 0.05 * QUICK.lr


def test_means_of_steps_that_did_not_happen_are_absent():
    gan = a_gan_trainer(dataclasses.replace(QUICK, updates=0.5, start_epoch=1.0))
    gan.begin(BATCH)
    assert gan.current is None
    assert gan.read() == {}
    train_step(gan, 3)
    assert gan.read().keys() == {"g_loss", "adaptive_weight"}


def test_no_warnings_before_the_discriminator_enters_the_loss():
    gan = a_gan_trainer(dataclasses.replace(QUICK, start_epoch=1.0, warmup_epochs=1.0))
    for images in (BATCH, 2 * BATCH, 3 * BATCH):
        gan.begin(images)
        assert not [line for _ in range(9) for line in gan.warnings({"d_accuracy": 0.5})]
    gan.begin(5 * BATCH)
    assert not [line for _ in range(9) for line in gan.warnings({})]
    assert [line for _ in range(9) for line in gan.warnings({"d_accuracy": 0.5})]


def test_clipping_bounds_the_gradient_and_its_unclipped_norm_is_logged(monkeypatch):
    gan = a_gan_trainer(dataclasses.replace(QUICK, clip_norm=1e-3))
    steps = []
    step = gan.optimizer.step
    parameters = list(gan.discriminator.parameters())
    monkeypatch.setattr(
        gan.optimizer,
        "step",
        lambda: (steps.append([p.grad.clone() for p in parameters]), step()),
    )
    train_step(gan, 1)
    norm = torch.stack([gradient.norm() for gradient in steps[0]]).norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-3)
    means = gan.read()
    assert means["d_grad_norm"] > 1e-3
    assert means["d_clipped_share"] == 1


def test_gradients_are_summed_over_ranks_before_they_are_clipped():
    """Two ranks with the same half batch give the result of one rank with it."""
    clock = dataclasses.replace(CLOCK, global_batch_size=2 * BATCH)
    single = a_gan_trainer(QUICK)
    double = a_gan_trainer(QUICK, clock, ranks=2)
    for gan, images in ((single, BATCH), (double, 2 * BATCH)):
        gan.begin(images)
        real, fake = pages(1)
        output, fake_view = gan.fork(an_output(fake.requires_grad_()), HEIGHTS)
        page = output.reconstruction
        (
            (page - real).square().sum() + gan.generator_terms(page, fake_view, real, HEIGHTS).sum()
        ).backward()
        gan.step(torch.tensor(True))
    assert double.read() == pytest.approx(single.read(), rel=1e-5)
    for name, value in single.tensors().items():
        torch.testing.assert_close(double.tensors()[name], value)


def test_every_kind_logs_its_means():
    for config in KINDS.values():
        gan = a_gan_trainer(config)
        train_step(gan, 2)
        means = gan.read()
        assert all(isinstance(value, float) for value in means.values())
        assert {"d_loss", "g_loss", "adaptive_weight", "d_grad_norm"} <= means.keys()
