"""Forward path of a training step, without an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from shards.reading.batch import Batch
from tests.support.models import perturbed_model
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.experiment import load_experiment
from vaetrain.gan.discriminators import build_discriminator
from vaetrain.gan.trainer import GanTrainer
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.schedules import Clock
from vaetrain.training.step import ForwardStep, TimedPart, untimed

CPU, PAGES, ROWS, WIDTH = torch.device("cpu"), 4, 64, 32
SETTINGS = (
    "model.latent_dim=8",
    "model.skips=gated",
    "augment.policy=default",
    "augment.mixup_alpha=0.4",
    "gan.enabled=true",
    "gan.start_epoch=0",
    "gan.warmup_epochs=0",
    "gan.feature_matching=1",
)
WEIGHTS = Weights({"recon": 1.0, "ssim": 0.5}, beta=0.1)


def a_step(phase: TimedPart = untimed) -> ForwardStep:
    experiment = load_experiment(None, SETTINGS)
    model = perturbed_model(experiment.model, WIDTH, ROWS, 0.02)
    return ForwardStep(
        experiment,
        model=model,
        vae=model,
        augment=Augment(load_policy(experiment.augment)),
        objective=Objective(experiment),
        device=CPU,
        phase=phase,
    )


def a_gan_trainer() -> GanTrainer:
    config = load_experiment(None, SETTINGS).gan
    clock = Clock(epoch_images=PAGES, global_batch_size=PAGES, horizon=10 * PAGES)
    engine = None  # used by discriminator steps only
    gan = GanTrainer(config, build_discriminator(config), clock, engine)
    gan.begin(PAGES)
    return gan


def pages(part: slice = slice(None)) -> Batch:
    """Return some of four pages of random pixels, with padding."""
    ids = torch.arange(PAGES)[part]
    heights = torch.tensor([ROWS, 40, 20, 50])
    pixels = torch.randint(
        256, (PAGES, 1, ROWS, WIDTH), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    pixels *= (torch.arange(ROWS) < heights[:, None])[:, None, :, None]
    canvas = torch.stack([torch.full_like(heights, WIDTH), heights], 1).float()
    zeros = torch.zeros_like(ids)
    return Batch(
        ids,
        zeros,
        heights[part],
        (ROWS, WIDTH),
        tops=zeros,
        canvas=canvas[part],
        pixels=pixels[part],
    )


def test_phases_are_entered_in_order():
    entered = []

    @contextlib.contextmanager
    def phase(name: str) -> Iterator[None]:
        entered.append(name)
        yield

    a_step(phase)(pages(), WEIGHTS, 1.0)
    assert entered == ["augment", "forward", "loss"]


def test_losses_of_a_page_do_not_depend_on_the_micro_batch():
    step = a_step()
    whole, parts = step(pages(), WEIGHTS, 0.7)
    halves = [step(pages(part), WEIGHTS, 0.7)[0] for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.cat(halves), whole)
    assert torch.equal(parts["loss"], whole.detach())


def test_gan_adds_its_terms_to_the_losses():
    step, gan = a_step(), a_gan_trainer()
    plain, _ = step(pages(), WEIGHTS, 1.0)
    losses, parts = step(pages(), WEIGHTS, 1.0, gan)
    assert not torch.isclose(losses, plain).any()
    assert torch.equal(parts["loss"], losses.detach())
    losses.sum().backward()
    assert (gan.balance.squares > 0).all()
    assert all(parameter.grad is None for parameter in gan.discriminator.parameters())
