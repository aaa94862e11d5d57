"""Discriminator training of a VAE-GAN.

The discriminator is small. Every rank holds all of it, no engine wraps it, and one explicit
all-reduce averages its gradients. All losses are means over the samples of the global batch, so the
split over ranks and micro batches does not change the result.

In a step of the VAE the discriminator is frozen and adds its terms to the losses (`fork`,
`generator_terms`); then it takes its own optimizer steps on the same pages (`step`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vaetrain.engines.base import Engine
from vaetrain.engines.optimizers import optimizer_tensors, start_state
from vaetrain.gan import losses as gan_losses
from vaetrain.gan.adaptive_weight import GradientBalance, MovingMeans
from vaetrain.gan.config import GanConfig
from vaetrain.gan.discriminators import Discriminator
from vaetrain.gan.losses import GanLoss
from vaetrain.gan.monitor import DiscriminatorMonitor
from vaetrain.gan.registry import LOSSES, NO_REGULARIZER, REGULARIZERS
from vaetrain.gan.regularizers import Regularizer, RegularizerInput
from vaetrain.meters import StepMeans
from vaetrain.model.masked import rows_at
from vaetrain.model.vae import VAEOutput
from vaetrain.schedules import Clock, lr_at

# In the linear part of a hinge the gradients of the last bias cancel. With torch's eps of 1e-8 Adam
# would take steps of full length from their rounding errors.
ADAM_EPS = 1e-5


class GanStep(NamedTuple):
    """Schedule of the discriminator in one step.

    Attributes:
        gate: factor on the terms of the VAE's loss: 0 during the discriminator's warm-up, then 1.
        updates: number of discriminator steps.
        lr: learning rate of the discriminator.
    """

    gate: float
    updates: int
    lr: float


def gan_step_at(config: GanConfig, clock: Clock, images: int) -> GanStep | None:
    """Return the schedule of the step that ends at `images`; None before `gan.start_epoch`.

    The schedule of the learning rate starts at that epoch.
    """
    epoch = clock.epoch(images) - config.start_epoch
    if epoch < 0:
        return None
    step = clock.steps(images)
    updates = math.floor(step * config.updates) - math.floor((step - 1) * config.updates)
    lr = lr_at(config.schedule, config.lr, epoch, clock.epochs - config.start_epoch)
    return GanStep(float(epoch >= config.warmup_epochs), updates, lr)


class GanBatch(NamedTuple):
    """Micro batch of the discriminator.

    Attributes:
        real, fake: original pages and their reconstructions, detached: (B, 1, H, W).
        heights: Long (B,), valid rows.
    """

    real: Tensor
    fake: Tensor
    heights: Tensor


class GanTrainer:
    """Discriminator, its optimizer and the adaptive weight, the same on every rank.

    Attributes:
        discriminator: frozen except during its own steps.
        monitor: warns of a discriminator that is dead or dominates.
        current: schedule of the current step; None before `gan.start_epoch`.
    """

    def __init__(
        self,
        config: GanConfig,
        discriminator: Discriminator,
        clock: Clock,
        engine: Engine,
        *,
        output: nn.Module | None = None,
    ) -> None:
        """Start the optimizer and the controllers.

        Args:
            discriminator: on the device, with the same weights on every rank.
            output: of the model, if the pixel loss is a function of the reconstruction's logits.
                The gradients of both losses then meet there, and `output.page` decodes the logits.
        """
        self.config = config
        self.loss: GanLoss = LOSSES[config.loss].load()
        self.regularizer: Regularizer | None = None
        if config.regularizer != NO_REGULARIZER:
            self.regularizer = REGULARIZERS[config.regularizer].load()
        self.output = output
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
        if self.regularizer is not None:
            names.append(config.regularizer)
        self.update_means = StepMeans((*names, "d_grad_norm", "d_clipped_share"), device)
        names = ["g_loss"]
        if config.feature_matching:
            names.append("feature_matching")
        if config.adaptive:
            names.append("adaptive_weight")
        self.step_means = StepMeans(tuple(names), device)
        self.monitor = DiscriminatorMonitor()
        self.current: GanStep | None = None
        self._sums: list[Tensor] = []  # of the loss terms, of each micro batch of the step
        self._batches: list[GanBatch] = []

    @property
    def plan(self) -> str:
        """Epochs at which the discriminator starts and enters the VAE's loss, in one line."""
        config, length = self.config, self.clock.epochs
        enters = config.start_epoch + config.warmup_epochs
        line = (
            f"discriminator={config.discriminator} trains from epoch {config.start_epoch:g} and "
            f"enters the VAE's loss from epoch {enters:g} of {length:.4g}"
        )
        return line if enters < length else f"{line}: not within this run"

    def begin(self, images: int) -> None:
        """Begin the step that ends at `images`.

        Before `gan.start_epoch` nothing of the GAN is computed. The engines' view of the graph does
        not change when it starts, because it reaches no parameter of the VAE that the other losses
        do not.
        """
        self.current = gan_step_at(self.config, self.clock, images)

    @property
    def factor(self) -> Tensor:
        """Weight of the generator loss now, a scalar on the device; 0 in the warm-up."""
        adaptive = self.balance.weight if self.config.adaptive else self.balance.one
        return adaptive * (self.current.gate * self.config.weight)

    def fork(self, output: VAEOutput, heights: Tensor) -> tuple[VAEOutput, Tensor]:
        """Split the graph at the reconstruction, so that both gradient norms are measured there.

        Where the pixel loss is a function of logits, the graph is split at the logits.

        Returns: the output for the objective, and the reconstruction (B, 1, H, W) for the
            discriminator.
        """
        if self.output is None:
            page, fake = self.balance.fork(output.reconstruction, self.factor)
            return output._replace(reconstruction=page), fake
        logits, fake_logits = self.balance.fork(output.logits, self.factor)
        rows = rows_at(heights, logits.shape[2])
        page, fake = (self.output.page(branch, rows) for branch in (logits, fake_logits))
        return output._replace(reconstruction=page, logits=logits), fake

    def generator_terms(
        self,
        page: Tensor,
        fake: Tensor,
        targets: Tensor,
        heights: Tensor,
        shares: Tensor | None = None,
    ) -> Tensor:
        """Return the terms of the VAE's losses, float32 (B,); keep the pages for `step`.

        The gradient of the generator loss is weighed at the fork, in the backward pass; the value
        returned is weighed here. A gate of 0 leaves the loss in the graph.

        Args:
            page, fake: (B, 1, H, W), both views of the reconstruction from `fork`.
            targets: the original pages, likewise.
            heights: Long (B,), valid rows.
            shares: (B,), weights of the pages' feature distances, 1 in the mean; None: all 1.
        """
        self._batches.append(GanBatch(targets, fake.detach(), heights))
        raw = gan_losses.generator_loss(self.loss, self.discriminator(fake, heights))
        total = raw + (self.factor * raw - raw).detach()
        sums = [raw]
        if self.config.feature_matching:
            originals = self.discriminator(targets, heights)
            distance = gan_losses.feature_distance(originals, self.discriminator(page, heights))
            distance = distance if shares is None else shares * distance
            total = total + self.current.gate * self.config.feature_matching * distance
            sums.append(distance)
        self._sums.append(torch.stack(sums).detach().double().sum(dim=1))
        return total

    def step(self, applied: Tensor) -> Tensor:
        """Take the discriminator steps on the pages of the global batch. Collective.

        Args:
            applied: bool scalar on the device, whether the VAE's step was applied; where false,
                nothing changes.

        Returns: whether all steps were applied, likewise.
        """
        sums = self.engine.sum(torch.cat([sum(self._sums), self.balance.squares]))
        means, squares = sums[:-2] / self.clock.global_batch_size, sums[-2:]
        used = [self.balance.weight.double()[None]] if self.config.adaptive else []
        self.step_means.add(torch.cat([means, *used]), applied)
        self.balance.update(squares, applied)
        for _ in range(self.current.updates):
            applied = self._update(applied)
        self._sums.clear()
        self._batches.clear()
        return applied

    def _update(self, applied: Tensor) -> Tensor:
        """Take one discriminator step if all before it were `applied`; see `step`."""
        buffers = [(buffer, buffer.clone()) for buffer in self.discriminator.buffers()]
        self.discriminator.renew_spectral_norms()
        self.discriminator.requires_grad_(True)
        sums = sum(self._forward_backward(batch) for batch in self._batches)
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

    def _forward_backward(self, batch: GanBatch) -> Tensor:
        """Add a micro batch to the discriminator's gradient; return the sums of logged values."""
        originals, fake_pages, heights = batch
        if self.regularizer is not None and self.regularizer.needs_input_gradient:
            originals = originals.detach().requires_grad_()
        real = self.discriminator(originals, heights)
        fake = self.discriminator(fake_pages, heights)
        losses = gan_losses.discriminator_loss(self.loss, real, fake)
        correct = gan_losses.accuracy(self.loss, real, fake)
        logged = [real.page_mean(real.logits), fake.page_mean(fake.logits), correct]
        if self.regularizer is not None:
            given = RegularizerInput(originals, real, fake, *self.logit_means.read())
            penalty = self.regularizer.penalty(given)
            losses = losses + self.config.regularizer_weight * penalty
            logged.append(penalty)
        # `Engine.average_gradients` divides by both factors.
        scale = self.engine.world_size * self.engine.loss_scale
        (losses.sum() * (scale / self.clock.global_batch_size)).backward()
        return torch.stack([losses, *logged]).detach().double().sum(dim=1)

    def read(self) -> dict[str, float]:
        """Return the means over the steps since the last reading; without steps, no keys."""
        return self.step_means.read() | self.update_means.read()

    def warnings(self, values: dict[str, float]) -> Iterator[str]:
        """Yield warnings about a logged line; none before the discriminator enters the loss."""
        if self.current is not None and self.current.gate and "d_accuracy" in values:
            yield from self.monitor.update(values["d_accuracy"])

    def tensors(self) -> dict[str, Tensor]:
        """Return the live tensors of the state by name, for a checkpoint."""
        tensors = {f"weights.{k}": v for k, v in self.discriminator.state_dict().items()}
        moments = optimizer_tensors(self.discriminator, self.optimizer)
        tensors |= {f"optimizer.{k}": v for k, v in moments.items()}
        tensors["adaptive_weight"] = self.balance.weight
        tensors["logit_means"] = self.logit_means.sums
        return tensors

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Load the result of `tensors`, on any number of ranks."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def state(self) -> dict[str, Any]:
        """Return the current means and the monitor's state as JSON, for a checkpoint."""
        return {
            "steps": self.step_means.state(),
            "updates": self.update_means.state(),
            "watch": self.monitor.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load the result of `state`."""
        self.step_means.load(state["steps"])
        self.update_means.load(state["updates"])
        self.monitor.load(state["watch"])
