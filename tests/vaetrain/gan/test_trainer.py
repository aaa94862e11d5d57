"""The game as a whole: who moves when, and that no cut of the batch changes it."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor

from vaetrain.engines.base import Engine
from vaetrain.gan import losses
from vaetrain.gan.config import GanConfig
from vaetrain.gan.discriminators import build_discriminator
from vaetrain.gan.trainer import GanTrainer, gan_step_at
from vaetrain.losses.pixel import bce_with_logits
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


class Ranks:
    """An engine of ranks that all hold the same pages: what they sum is a multiple of their own."""

    loss_scale = 1.0
    average_gradients = Engine.average_gradients
    step_replicated = Engine.step_replicated

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size

    def sum(self, values: Tensor) -> Tensor:
        return values * self.world_size


def a_gan_trainer(config: GanConfig, clock: Clock = CLOCK, seed: int = 0, ranks: int = 1):
    torch.manual_seed(seed)
    judge = build_discriminator(config)
    return GanTrainer(config, judge, clock, Ranks(ranks))


def an_output(page: Tensor, logits: Tensor | None = None) -> VAEOutput:
    nothing = torch.zeros(len(page), 0)
    return VAEOutput(page, nothing, nothing, nothing, page if logits is None else logits)


def pages(seed: int) -> tuple[Tensor, Tensor]:
    """Originals with edges, and reconstructions with noise in the place of edges."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.rand(BATCH, 1, 8, 8, generator=generator).round()
    real = real.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    fake = 0.5 * real + 0.2 * torch.rand(real.shape, generator=generator)
    below = torch.arange(32)[:, None] >= HEIGHTS[:, None, None, None]
    return real.masked_fill(below, 0), fake.masked_fill(below, 0)


def play(game: GanTrainer, step: int, micro: int = BATCH) -> Tensor:
    """One step with reconstructions that are leaves; the gradient that they get."""
    game.begin(BATCH * step)
    assert game.current is not None
    real, fake = pages(step)
    fake.requires_grad_()
    for start in range(0, BATCH, micro):
        part = slice(start, start + micro)
        output, theirs = game.fork(an_output(fake[part]), HEIGHTS[part])
        ours = output.reconstruction
        losses = (ours - real[part]).abs().mean(dim=(1, 2, 3))
        losses = losses + game.terms(ours, theirs, real[part], HEIGHTS[part])
        (losses.sum() / BATCH).backward()
    game.step(torch.tensor(True))
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
def test_the_turn_follows_a_clock_of_its_own(images, expected):
    config = GanConfig(start_epoch=2.0, warmup_epochs=1.5, lr=0.2)
    config.schedule = LrConfig("constant", warmup_epochs=1.0)
    assert gan_step_at(config, CLOCK, images) == (expected and pytest.approx(expected))


def test_its_cosine_ends_with_the_training():
    config = GanConfig(start_epoch=2.0, lr=0.2)
    config.schedule = LrConfig("cosine", warmup_epochs=0.0, floor=0.0)
    rates = [gan_step_at(config, CLOCK, images).lr for images in (32, 96, 160)]
    assert rates == pytest.approx([0.2, 0.1, 0.0])


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1.0, [1] * 6), (0.5, [0, 1] * 3), (2.0, [2] * 6), (1.5, [1, 2] * 3)]
)
def test_the_update_ratio_is_kept(ratio, expected):
    config = dataclasses.replace(QUICK, updates=ratio)
    assert [gan_step_at(config, CLOCK, BATCH * step).updates for step in range(1, 7)] == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro", [4, 2, 1])
def test_how_the_batch_is_cut_changes_nothing(kind, micro):
    whole, cut = a_gan_trainer(KINDS[kind]), a_gan_trainer(KINDS[kind])
    for step in (1, 2, 3):
        expected, found = play(whole, step), play(cut, step, micro)
        torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-4)
    for name, value in whole.tensors().items():
        torch.testing.assert_close(cut.tensors()[name], value, atol=1e-6, rtol=1e-4)
    assert cut.read() == pytest.approx(whole.read(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_game_goes_on_with_the_same_bits(kind):
    whole, stopped = a_gan_trainer(KINDS[kind]), a_gan_trainer(KINDS[kind])
    for step in (1, 2):
        play(whole, step)
        play(stopped, step)
    tensors = {name: value.clone() for name, value in stopped.tensors().items()}
    state = json.loads(json.dumps(stopped.state()))
    resumed = a_gan_trainer(KINDS[kind], seed=7)
    resumed.load_tensors(tensors)
    resumed.load(state)
    for step in (3, 4):
        assert torch.equal(play(resumed, step), play(whole, step))
    assert resumed.tensors().keys() == whole.tensors().keys()
    for name, value in whole.tensors().items():
        assert torch.equal(resumed.tensors()[name], value), name
    assert resumed.read() == whole.read()


def test_the_vae_gets_the_weighed_gradient_and_the_discriminator_none():
    config = dataclasses.replace(KINDS["lecam-features"], weight=0.3, feature_matching=2.0)
    game = a_gan_trainer(config)
    play(game, 1)
    real, fake = pages(2)
    fake.requires_grad_()
    game.begin(2 * BATCH)
    output, theirs = game.fork(an_output(fake), HEIGHTS)
    ours = output.reconstruction
    terms = game.terms(ours, theirs, real, HEIGHTS)
    terms.sum().backward()
    assert all(parameter.grad is None for parameter in game.discriminator.parameters())

    x = fake.detach().clone().requires_grad_()
    originals, judged = game.discriminator(real, HEIGHTS), game.discriminator(x, HEIGHTS)
    assert 0 < game.balance.weight.item() != 1
    expected = 0.3 * game.balance.weight * losses.generator_loss(config.loss, judged)
    expected = expected + 2.0 * losses.feature_distance(originals, judged)
    torch.testing.assert_close(terms, expected)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(fake.grad, gradient)


def test_where_the_pixel_loss_is_of_logits_its_gradient_is_measured_there():
    config = dataclasses.replace(QUICK, weight=0.3)
    torch.manual_seed(0)
    game = GanTrainer(config, build_discriminator(config), CLOCK, Ranks(1), at_logits=True)
    game.begin(BATCH)
    assert game.current is not None
    real, fake = pages(1)
    logits = torch.logit(fake, eps=1e-3).requires_grad_()
    output, theirs = game.fork(an_output(torch.sigmoid(logits), logits), HEIGHTS)
    below = torch.arange(32)[:, None] >= HEIGHTS[:, None, None, None]
    torch.testing.assert_close(theirs, torch.sigmoid(logits).masked_fill(below, 0))
    torch.testing.assert_close(output.reconstruction, theirs)

    terms = game.terms(output.reconstruction, theirs, real, HEIGHTS)
    pixel = bce_with_logits(output.logits, real, HEIGHTS)
    (pixel.sum() + terms.sum()).backward()
    free = logits.detach().clone().requires_grad_()
    mine = torch.autograd.grad(bce_with_logits(free, real, HEIGHTS).sum(), free)[0]
    judged = game.discriminator(torch.sigmoid(free).masked_fill(below, 0), HEIGHTS)
    other = torch.autograd.grad(losses.generator_loss("hinge", judged).sum(), free)[0]
    norms = [mine.square().sum().item(), other.square().sum().item()]
    assert game.balance.squares.tolist() == pytest.approx(norms, rel=1e-5)
    torch.testing.assert_close(logits.grad, mine + 0.3 * other)


def test_in_the_warm_up_the_vae_feels_nothing_and_the_discriminator_learns():
    game = a_gan_trainer(dataclasses.replace(KINDS["lecam-features"], warmup_epochs=1.0))
    before = {name: value.clone() for name, value in game.tensors().items()}
    game.begin(BATCH)
    assert game.current is not None
    real, fake = pages(1)
    fake.requires_grad_()
    output, theirs = game.fork(an_output(fake), HEIGHTS)
    ours = output.reconstruction
    terms = game.terms(ours, theirs, real, HEIGHTS)
    assert torch.equal(terms, torch.zeros(BATCH))
    ((ours - real).square().sum() + terms.sum()).backward()
    torch.testing.assert_close(fake.grad, 2 * (fake - real).detach())
    game.step(torch.tensor(True))
    weights = [name for name in before if name.endswith(("original", "bias"))]
    assert weights
    assert not any(torch.equal(game.tensors()[name], before[name]) for name in weights)
    assert game.balance.weight.item() != 1  # known in time for the first step that counts


@pytest.mark.parametrize(("updates", "renewals"), [(1.0, 4), (2.0, 8), (0.5, 2)])
def test_one_power_iteration_per_update(updates, renewals, monkeypatch):
    game = a_gan_trainer(dataclasses.replace(QUICK, updates=updates))
    counted = []
    renew = game.discriminator.renew_spectral_norms
    monkeypatch.setattr(
        game.discriminator, "renew_spectral_norms", lambda: (counted.append(1), renew())
    )
    for step in (1, 2, 3, 4):
        play(game, step, micro=2)
    assert len(counted) == renewals
    assert game.update_means.count == renewals


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_to_tell(kind):
    game = a_gan_trainer(KINDS[kind])
    play(game, 1)
    first = game.read()
    for step in range(2, 61):
        play(game, step)
        if step == 50:
            game.read()
    told = game.read()
    assert told["d_accuracy"] > 0.8
    assert told["d_loss"] < 0.9 * first["d_loss"]
    assert told["d_logit_real"] > told["d_logit_fake"]
    assert "r1" in told if kind == "light-r1" else "r1" not in told


def test_rounding_errors_move_nothing():
    """Where pages equal their originals a hinge has no gradient; Adam must not make one of it."""
    game = a_gan_trainer(QUICK)
    before = [parameter.clone() for parameter in game.discriminator.parameters()]
    real, _ = pages(1)
    for step in (1, 2, 3):
        game.begin(BATCH * step)
        for part in (slice(0, 3), slice(3, BATCH)):
            output, theirs = game.fork(an_output(real[part]), HEIGHTS[part])
            game.terms(output.reconstruction, theirs, real[part], HEIGHTS[part])
        game.step(torch.tensor(True))
    after = game.discriminator.parameters()
    moved = max((a - b).abs().max().item() for a, b in zip(after, before, strict=True))
    assert moved < 0.05 * QUICK.lr


def test_what_was_not_played_is_not_told():
    game = a_gan_trainer(dataclasses.replace(QUICK, updates=0.5, start_epoch=1.0))
    game.begin(BATCH)
    assert game.current is None
    assert game.read() == {}
    play(game, 3)
    assert game.read().keys() == {"g_loss", "adaptive_weight"}


def test_warnings_wait_until_it_counts():
    game = a_gan_trainer(dataclasses.replace(QUICK, start_epoch=1.0, warmup_epochs=1.0))
    for images in (BATCH, 2 * BATCH, 3 * BATCH):
        game.begin(images)
        assert not [line for _ in range(9) for line in game.warnings({"d_accuracy": 0.5})]
    game.begin(5 * BATCH)
    assert not [line for _ in range(9) for line in game.warnings({})]
    assert [line for _ in range(9) for line in game.warnings({"d_accuracy": 0.5})]


def test_clipping_bounds_the_gradient_and_tells_it_unclipped(monkeypatch):
    game = a_gan_trainer(dataclasses.replace(QUICK, clip_norm=1e-3))
    steps = []
    step = game.optimizer.step
    parameters = list(game.discriminator.parameters())
    monkeypatch.setattr(
        game.optimizer,
        "step",
        lambda: (steps.append([p.grad.clone() for p in parameters]), step()),
    )
    play(game, 1)
    norm = torch.stack([gradient.norm() for gradient in steps[0]]).norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-3)
    told = game.read()
    assert told["d_grad_norm"] > 1e-3
    assert told["d_clipped_share"] == 1


def test_gradients_are_summed_over_ranks_before_they_are_clipped():
    """Two ranks that hold the same half batch: their sum is twice one's."""
    clock = dataclasses.replace(CLOCK, global_batch_size=2 * BATCH)
    alone = a_gan_trainer(QUICK)
    shared = a_gan_trainer(QUICK, clock, ranks=2)
    for game, images in ((alone, BATCH), (shared, 2 * BATCH)):
        game.begin(images)
        real, fake = pages(1)
        output, theirs = game.fork(an_output(fake.requires_grad_()), HEIGHTS)
        ours = output.reconstruction
        ((ours - real).square().sum() + game.terms(ours, theirs, real, HEIGHTS).sum()).backward()
        game.step(torch.tensor(True))
    assert shared.read() == pytest.approx(alone.read(), rel=1e-5)
    for name, value in alone.tensors().items():
        torch.testing.assert_close(shared.tensors()[name], value)


def test_every_kind_names_what_it_tells():
    for config in KINDS.values():
        game = a_gan_trainer(config)
        play(game, 2)
        told = game.read()
        assert all(isinstance(value, float) for value in told.values())
        assert {"d_loss", "g_loss", "adaptive_weight", "d_grad_norm"} <= told.keys()
