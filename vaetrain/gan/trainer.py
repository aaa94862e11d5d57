"""The VAE's adversary: a discriminator with all that it takes to train against it.

It is small and replicated: no engine spreads it, it is called raw, and its gradients are averaged
by one explicit all-reduce. Everything is a mean over the samples of the global batch, so how that
is cut over ranks and micro batches changes nothing.

A step of the VAE collects the terms that its reconstructions bring (`fork`, `terms`), with the
discriminator frozen; then the discriminator takes its own steps on the same pages (`step`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaetrain.engines.base import Engine
from vaetrain.engines.optimizers import optimizer_tensors, start_state
from vaetrain.gan import losses as gan_losses
from vaetrain.gan.adaptive_weight import GradientBalance, MovingMeans
from vaetrain.gan.config import GanConfig
from vaetrain.gan.discriminators import Discriminator, DiscriminatorOutput
from vaetrain.gan.monitor import DiscriminatorMonitor
from vaetrain.meters import StepMeans
from vaetrain.model.masked import keep, rows_at
from vaetrain.model.vae import VAEOutput
from vaetrain.schedules import Clock, lr_at

# In a hinge's linear part gradients of the last bias cancel, and with torch's 1e-8 Adam would take
# steps of full length from their rounding errors.
ADAM_EPS = 1e-5


class GanStep(NamedTuple):
    """What the clock says of one step.

    Attributes:
        gate: 0 while the discriminator warms up on its own, then 1.
        updates: its optimizer steps.
        lr: its learning rate.
    """

    gate: float
    updates: int
    lr: float


def gan_step_at(config: GanConfig, clock: Clock, images: int) -> GanStep | None:
    """The turn of the step that ends at `images`; None before the discriminator's start.

    Its learning rate follows a clock of its own, which starts with it.
    """
    epoch = clock.epoch(images) - config.start_epoch
    if epoch < 0:
        return None
    step = clock.steps(images)
    updates = math.floor(step * config.updates) - math.floor((step - 1) * config.updates)
    lr = lr_at(config.schedule, config.lr, epoch, clock.epochs - config.start_epoch)
    return GanStep(float(epoch >= config.warmup_epochs), updates, lr)


class GanBatch(NamedTuple):
    """A micro batch as the discriminator sees it: two images (B, 1, H, W) and Long (B,) rows."""

    real: Tensor
    fake: Tensor
    heights: Tensor


class GanTrainer:
    """A discriminator, its optimizer, and the controllers of the game, the same on every rank.

    Attributes:
        discriminator: frozen, but while it is updated itself.
        watch: says when the discriminator has died or dominates.
        turn: what the clock says of the step under way; None while nothing is played.
    """

    def __init__(
        self,
        config: GanConfig,
        discriminator: Discriminator,
        clock: Clock,
        engine: Engine,
        *,
        at_logits: bool = False,
    ) -> None:
        """Begin a game.

        Args:
            discriminator: on the device, of the same weights on every rank.
            at_logits: the pixel loss is of logits, so gradients meet there.
        """
        self.config = config
        self.at_logits = at_logits
        self.clock = clock
        self.engine = engine
        self.discriminator = discriminator.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=ADAM_EPS,
            weight_decay=0.0,
            fused=True,
        )
        start_state(self.optimizer, list(self.discriminator.parameters()))
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
        self.watch = DiscriminatorMonitor()
        self.current: GanStep | None = None
        self._sums: list[Tensor] = []
        self._pages: list[GanBatch] = []

    @property
    def plan(self) -> str:
        """In one line, when the discriminator trains and when it counts."""
        config, length = self.config, self.clock.epochs
        counts = config.start_epoch + config.warmup_epochs
        line = (
            f"discriminator={config.discriminator} trains from epoch {config.start_epoch:g}, "
            f"counts from epoch {counts:g} of {length:.4g}"
        )
        return line if counts < length else f"{line}: never in this run"

    def begin(self, images: int) -> None:
        """Open the step that ends at `images`.

        Before its start nothing of it is computed: no parameter of the VAE is reached through it
        alone, so the graph that the engines see is the same without it.
        """
        self.current = gan_step_at(self.config, self.clock, images)

    @property
    def factor(self) -> Tensor:
        """The weight of the adversarial loss now, a scalar on the device; 0 in the warm-up."""
        adaptive = self.balance.weight if self.config.adaptive else self.balance.one
        return adaptive * (self.current.gate * self.config.weight)

    def fork(self, output: VAEOutput, heights: Tensor) -> tuple[VAEOutput, Tensor]:
        """The output for the objective, and the reconstruction (B, 1, H, W) for the discriminator.

        They part where their gradients meet: at the reconstruction, or at its logits where the
        pixel loss is of logits.
        """
        if not self.at_logits:
            ours, theirs = self.balance.fork(output.reconstruction, self.factor)
            return output._replace(reconstruction=ours), theirs
        logits, others = self.balance.fork(output.logits, self.factor)
        rows = rows_at(heights, logits.shape[2])
        ours, theirs = (keep(torch.sigmoid(branch), rows) for branch in (logits, others))
        return output._replace(reconstruction=ours, logits=logits), theirs

    def terms(
        self,
        ours: Tensor,
        theirs: Tensor,
        targets: Tensor,
        heights: Tensor,
        shares: Tensor | None = None,
    ) -> Tensor:
        """What the game adds to the VAE's losses, float32 (B,); keeps the pages for `step`.

        The adversarial loss is weighed at the fork, in the backward pass; the value returned is
        what it weighs. A gate of 0 leaves it in the graph.

        Args:
            ours, theirs: (B, 1, H, W), of `fork`.
            targets: the original pages, likewise.
            heights: Long (B,), valid rows.
            shares: (B,), how much the pages' feature distances count, 1 in the mean; None: all 1.
        """
        self._pages.append(GanBatch(targets, theirs.detach(), heights))
        raw = gan_losses.generator_loss(self.config.loss, self.discriminator(theirs, heights))
        total = raw + (self.factor * raw - raw).detach()
        sums = [raw]
        if self.config.feature_matching:
            originals = self.discriminator(targets, heights)
            distance = gan_losses.feature_distance(originals, self.discriminator(ours, heights))
            distance = distance if shares is None else shares * distance
            total = total + self.current.gate * self.config.feature_matching * distance
            sums.append(distance)
        self._sums.append(torch.stack(sums).detach().double().sum(dim=1))
        return total

    def step(self, applied: Tensor) -> Tensor:
        """Take the discriminator's optimizer steps on the pages of the global batch. Collective.

        Args:
            applied: bool scalar on the device, whether the VAE's step was; false: nothing moves.

        Returns: whether all of them were, likewise.
        """
        sums = self.engine.sum(torch.cat([sum(self._sums), self.balance.squares]))
        means, squares = sums[:-2] / self.clock.global_batch_size, sums[-2:]
        used = [self.balance.weight.double()[None]] if self.config.adaptive else []
        self.step_means.add(torch.cat([means, *used]), applied)
        self.balance.update(squares, applied)
        for _ in range(self.current.updates):
            applied = self._update(applied)
        self._sums.clear()
        self._pages.clear()
        return applied

    def _update(self, applied: Tensor) -> Tensor:
        """Take one discriminator step if all before it were `applied`; see `step`."""
        buffers = [(buffer, buffer.clone()) for buffer in self.discriminator.buffers()]
        self.discriminator.renew_spectral_norms()
        self.discriminator.requires_grad_(True)
        sums = sum(self._forward_backward(pages) for pages in self._pages)
        self.discriminator.requires_grad_(False)
        clip_norm = self.config.clip_norm
        self.engine.average_gradients(self.discriminator.parameters())
        norm = self.engine.step_replicated(self.optimizer, self.current.lr, clip_norm, applied)
        applied = applied & norm.isfinite()
        for buffer, before in buffers:
            buffer.copy_(torch.where(applied, buffer, before))
        clipped = norm > (clip_norm or float("inf"))
        means = self.engine.sum(sums) / self.clock.global_batch_size
        self.logit_means.add(means[1], means[2], applied)
        self.update_means.add(torch.cat([means, torch.stack([norm, clipped])]), applied)
        return applied

    def _forward_backward(self, pages: GanBatch) -> Tensor:
        """Add a micro batch to the discriminator's gradient; the sums of what is told of it."""
        config, (real_pages, fake_pages, heights) = self.config, pages
        if config.regularizer == "r1":
            real_pages = real_pages.detach().requires_grad_()
        real = self.discriminator(real_pages, heights)
        fake = self.discriminator(fake_pages, heights)
        losses = gan_losses.discriminator_loss(config.loss, real, fake)
        right = gan_losses.accuracy(config.loss, real, fake)
        told = [real.page_mean(real.logits), fake.page_mean(fake.logits), right]
        if config.regularizer != "none":
            penalty = self._penalty(real_pages, real, fake)
            losses = losses + config.regularizer_weight * penalty
            told.append(penalty)
        # As `average_gradients` expects it, that undoes both factors.
        scale = self.engine.world_size * self.engine.loss_scale
        (losses.sum() * (scale / self.clock.global_batch_size)).backward()
        return torch.stack([losses, *told]).detach().double().sum(dim=1)

    def _penalty(
        self, real_pages: Tensor, real: DiscriminatorOutput, fake: DiscriminatorOutput
    ) -> Tensor:
        if self.config.regularizer == "r1":
            return gan_losses.r1(real_pages, real)
        return gan_losses.lecam(real, fake, *self.logit_means.read())

    def read(self) -> dict[str, float]:
        """The means over the steps since the last reading; what was not played is left out."""
        return self.step_means.read() | self.update_means.read()

    def warnings(self, values: dict[str, float]) -> Iterator[str]:
        """What there is to say of a logged line: nothing before the discriminator counts."""
        if self.current is not None and self.current.gate and "d_accuracy" in values:
            yield from self.watch.update(values["d_accuracy"])

    def tensors(self) -> dict[str, Tensor]:
        """All that the game has learnt, by name, for a checkpoint: the live tensors."""
        tensors = {f"weights.{k}": v for k, v in self.discriminator.state_dict().items()}
        moments = optimizer_tensors(self.discriminator, self.optimizer)
        tensors |= {f"optimizer.{k}": v for k, v in moments.items()}
        tensors["adaptive_weight"] = self.balance.weight
        tensors["logit_means"] = self.logit_means.sums
        return tensors

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned, on any number of ranks."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def state(self) -> dict[str, Any]:
        """The means under way and the watch, as JSON, for a checkpoint."""
        return {
            "steps": self.step_means.state(),
            "updates": self.update_means.state(),
            "watch": self.watch.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.step_means.load(state["steps"])
        self.update_means.load(state["updates"])
        self.watch.load(state["watch"])
