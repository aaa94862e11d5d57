"""The VAE's adversary: a discriminator with all that it takes to train against it.

It is small and replicated: the engine knows nothing of it, it is called raw, and its gradients are
averaged by one explicit all-reduce. Everything is a mean over the samples of the global batch, so
how that is cut over ranks and micro batches changes nothing.

A step of the VAE collects the terms that its reconstructions bring (`fork`, `terms`), with the
discriminator frozen; then the discriminator takes its own steps on the same pages (`step`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from vaetrain import adversarial
from vaetrain.balance import GradientBalance, MovingMeans
from vaetrain.config import GanConfig
from vaetrain.discriminators import Discriminator, Verdict
from vaetrain.meter import StepMeans
from vaetrain.optimizers import load_optimizer_tensors, optimizer_tensors
from vaetrain.schedules import Clock, lr_at

OPTIMIZER = "optimizer."  # before the names of the optimizer's tensors in a checkpoint
WEIGHTS = "weights."


class Turn(NamedTuple):
    """What the clock says of one step.

    Attributes:
        gate: 0 while the discriminator warms up on its own, then 1.
        updates: its optimizer steps.
        lr: its learning rate.
    """

    gate: float
    updates: int
    lr: float


def turn_at(config: GanConfig, clock: Clock, images: int) -> Turn | None:
    """The turn of the step that ends at `images`; None before the discriminator's start.

    Its learning rate follows a clock of its own, which starts with it.
    """
    epoch = clock.epoch(images) - config.start_epoch
    if epoch < 0:
        return None
    step = clock.steps(images)
    updates = math.floor(step * config.updates) - math.floor((step - 1) * config.updates)
    lr = lr_at(config.schedule, config.lr, epoch, clock.epochs - config.start_epoch)
    return Turn(float(epoch >= config.warmup_epochs), updates, lr)


class Pages(NamedTuple):
    """A micro batch as the discriminator sees it: two images (B, 1, H, W) and Long (B,) rows."""

    real: Tensor
    fake: Tensor
    heights: Tensor


class Adversary:
    """A discriminator, its optimizer, and the controllers of the game, the same on every rank.

    Attributes:
        discriminator: frozen, but while it is updated itself.
        turn: what the clock says of the step under way; None while nothing is played.
    """

    def __init__(
        self,
        config: GanConfig,
        discriminator: Discriminator,
        clock: Clock,
        sum_over_ranks: Callable[[Tensor], Tensor],
    ) -> None:
        """Begin a game.

        Args:
            discriminator: on the device, of the same weights on every rank.
            sum_over_ranks: collective; a tensor's sum, on all ranks.
        """
        self.config = config
        self.clock = clock
        self.sum_over_ranks = sum_over_ranks
        self.discriminator = discriminator.requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            self.discriminator.parameters(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            fused=True,
        )
        device = next(discriminator.parameters()).device
        self.balance = GradientBalance(config.adaptive_max, device)
        self.logit_means = MovingMeans(device)
        names = ["d_loss", "d_logit_real", "d_logit_fake", "d_accuracy"]
        if config.regularizer != "none":
            names.append(config.regularizer)
        self.update_means = StepMeans((*names, "d_grad_norm", "d_clipped_share"), device)
        names = ["g_loss"]
        if config.feature_matching:
            names.append("feature_matching")
        if config.adaptive:
            names.append("adaptive_weight")
        self.step_means = StepMeans(tuple(names), device)
        self.turn: Turn | None = None
        self._sums: list[Tensor] = []
        self._pages: list[Pages] = []

    def begin(self, images: int) -> bool:
        """Open the step that ends at `images`; whether the discriminator plays in it.

        Before its start nothing of it is computed: no parameter of the VAE is reached through it
        alone, so the graph that the engines see is the same without it.
        """
        self.turn = turn_at(self.config, self.clock, images)
        return self.turn is not None

    @property
    def factor(self) -> Tensor:
        """The weight of the adversarial loss now, a scalar on the device; 0 in the warm-up."""
        adaptive = self.balance.weight if self.config.adaptive else self.balance.one
        return adaptive * (self.turn.gate * self.config.weight)

    def fork(self, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstruction for the objective, and the one for the discriminator."""
        return self.balance.fork(reconstruction, self.factor)

    def terms(
        self,
        ours: Tensor,
        theirs: Tensor,
        targets: Tensor,
        heights: Tensor,
        weights: Tensor | None = None,
    ) -> Tensor:
        """What the game adds to the VAE's losses, float32 (B,); keeps the pages for `step`.

        The adversarial loss is weighed at the fork, in the backward pass; the value returned is
        what it weighs. A gate of 0 leaves it in the graph.

        Args:
            ours, theirs: (B, 1, H, W), of `fork`.
            targets: the original pages, likewise.
            heights: Long (B,), valid rows.
            weights: (B,) of the pages' feature distances, 1 in the mean; None: all 1.
        """
        self._pages.append(Pages(targets, theirs.detach(), heights))
        raw = adversarial.generator_loss(self.config.loss, self.discriminator(theirs, heights))
        total = raw + (self.factor * raw - raw).detach()
        sums = [raw]
        if self.config.feature_matching:
            originals = self.discriminator(targets, heights)
            distance = adversarial.feature_distance(originals, self.discriminator(ours, heights))
            distance = distance if weights is None else weights * distance
            total = total + self.turn.gate * self.config.feature_matching * distance
            sums.append(distance)
        self._sums.append(torch.stack(sums).detach().double().sum(dim=1))
        return total

    def step(self) -> None:
        """Take the discriminator's optimizer steps on the pages of the global batch. Collective."""
        sums = self.sum_over_ranks(torch.cat([sum(self._sums), self.balance.squares]))
        means, squares = sums[:-2] / self.clock.global_batch_size, sums[-2:]
        used = [self.balance.weight.double()[None]] if self.config.adaptive else []
        self.step_means.add(torch.cat([means, *used]))
        for _ in range(self.turn.updates):
            self._update()
        self.balance.update(squares)
        self._sums.clear()
        self._pages.clear()

    def _update(self) -> None:
        """One optimizer step of the discriminator."""
        self.discriminator.renew_spectral_norms()
        self.discriminator.requires_grad_(True)
        sums = sum(self._forward_backward(pages) for pages in self._pages)
        self.discriminator.requires_grad_(False)
        parameters = list(self.discriminator.parameters())
        gradients = [parameter.grad for parameter in parameters]
        vector_to_parameters(self.sum_over_ranks(parameters_to_vector(gradients)), gradients)
        limit = self.config.clip_norm or float("inf")
        norm = clip_grad_norm_(parameters, limit)
        for group in self.optimizer.param_groups:
            group["lr"] = self.turn.lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        means = self.sum_over_ranks(sums) / self.clock.global_batch_size
        self.logit_means.add(means[1], means[2])
        self.update_means.add(torch.cat([means, torch.stack([norm, norm > limit])]))

    def _forward_backward(self, pages: Pages) -> Tensor:
        """Add a micro batch to the discriminator's gradient; the sums of what is told of it."""
        config, (real_pages, fake_pages, heights) = self.config, pages
        if config.regularizer == "r1":
            real_pages = real_pages.detach().requires_grad_()
        real = self.discriminator(real_pages, heights)
        fake = self.discriminator(fake_pages, heights)
        losses = adversarial.discriminator_loss(config.loss, real, fake)
        right = adversarial.accuracy(config.loss, real, fake)
        told = [real.page_mean(real.logits), fake.page_mean(fake.logits), right]
        if config.regularizer != "none":
            penalty = self._penalty(real_pages, real, fake)
            losses = losses + config.regularizer_weight * penalty
            told.append(penalty)
        (losses.sum() / self.clock.global_batch_size).backward()
        return torch.stack([losses, *told]).detach().double().sum(dim=1)

    def _penalty(self, real_pages: Tensor, real: Verdict, fake: Verdict) -> Tensor:
        if self.config.regularizer == "r1":
            return adversarial.r1(real_pages, real)
        return adversarial.lecam(real, fake, *self.logit_means.read())

    def read(self) -> dict[str, float]:
        """The means over the steps since the last reading; what was not played is left out."""
        return self.step_means.read() | self.update_means.read()

    def tensors(self) -> dict[str, Tensor]:
        """All that the game has learnt, by name, for a checkpoint."""
        weights = self.discriminator.state_dict()
        moments = optimizer_tensors(self.discriminator, self.optimizer)
        return {
            **{WEIGHTS + name: value for name, value in weights.items()},
            **{OPTIMIZER + name: value for name, value in moments.items()},
            "adaptive_weight": self.balance.weight,
            "logit_means": self.logit_means.sums,
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned, on any number of ranks."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }

        self.discriminator.load_state_dict(under(WEIGHTS))
        load_optimizer_tensors(self.discriminator, self.optimizer, under(OPTIMIZER))
        self.balance.weight.copy_(tensors["adaptive_weight"])
        self.logit_means.sums.copy_(tensors["logit_means"])

    def state(self) -> dict[str, Any]:
        """The means under way, as JSON, for a checkpoint."""
        return {"steps": self.step_means.state(), "updates": self.update_means.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.step_means.load(state["steps"])
        self.update_means.load(state["updates"])
