"""Forward path of a training step: from a micro batch of pages to one loss per page.

`Trainer.step` in `trainer.py` is the whole step: micro batches, backward pass, optimizer. The
trainer, the batch-size study, the memory prediction and the device tests all call it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shards.randomness import sample_keys
from shards.reading.batch import Batch
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.experiment import Experiment
from vaetrain.gan.trainer import GanTrainer
from vaetrain.losses.contrastive import injected
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.model.mixup import Mixup
from vaetrain.model.vae import VAE, draw_noise

SECOND_VIEW = 1 << 40  # added to the seed of the second view's random numbers

TimedPart = Callable[[str], contextlib.AbstractContextManager[None]]
"""Returns a context manager around a named part of a step, for timing."""


def untimed(name: str) -> contextlib.AbstractContextManager[None]:
    """Return a context manager that measures nothing."""
    return contextlib.nullcontext()


class Contrast(NamedTuple):
    """Contrastive losses of a micro batch's pages, detached.

    Attributes:
        values: (B,).
        gradients: (2, B, D), of the sum over the step's pages, at the views of these pages.
    """

    values: Tensor
    gradients: Tensor


class ForwardStep:
    """Augmentation, noise, model, GAN branch and objective, in the order of a training step.

    Everything stays on the batch's device and the host reads no value, so that it also runs on fake
    tensors and on `meta`.

    Attributes:
        objective: weighed losses of each page.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        model: nn.Module,
        vae: VAE,
        augment: Augment,
        objective: Objective,
        device: torch.device,
        phase: TimedPart = untimed,
    ) -> None:
        """Collect the parts; they stay the caller's.

        Args:
            model: called for the forward pass; a wrapper of `vae`, or `vae` itself.
            vae: read for the shapes of the noise.
            phase: entered around the phases `augment`, `forward` and `loss`.
        """
        self.model, self.vae = model, vae
        self.augment, self.objective, self.phase = augment, objective, phase
        self.seed, self.skip_dropout = experiment.train.seed, experiment.skips.dropout
        # A second view must differ from the first.
        named = experiment.augment.policy != "none"
        self.second = augment if named else Augment(load_policy(AugmentConfig("default")))
        alpha = experiment.augment.mixup_alpha
        self.mixup = Mixup(alpha, device) if alpha > 0 else None

    def __call__(
        self,
        batch: Batch,
        weights: Weights,
        skip_gate: float,
        gan: GanTrainer | None = None,
        contrast: Contrast | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the losses of one micro batch.

        Args:
            batch: on the device.
            weights: of the losses at this step.
            skip_gate: how far skip connections are open at this step, 0 to 1.
            gan: adds its terms to the losses and keeps the pages for its discriminator step; None:
                the discriminator has not started, or there is none.
            contrast: of these pages; None: the loss has no such term.

        Returns: the losses, float32 (B,), and their parts by name, each (B,), detached; see
            `Objective.forward`.
        """
        with self.phase("augment"):
            inputs, targets = self.augment(batch, self.seed)
            keys = sample_keys(self.seed, batch.epochs, batch.ids, "eps")
            noise = draw_noise(self.vae, keys, batch.size, skip_gate, self.skip_dropout)
            latent_shares = None
            if self.mixup is not None:
                latent_shares = self.mixup.shares(self.seed, batch.epochs, batch.ids)
            views = None if contrast is None else self.second_view(batch)
        with self.phase("forward"):
            output = self.model(inputs, batch.heights, noise, latent_shares, views)
        with self.phase("loss"):
            # The shares of a pair sum to 1; loss shares are 1 in the mean.
            shares = None if latent_shares is None else 2 * latent_shares
            if gan is not None:
                output, fake = gan.fork(output, batch.heights)
            of_views = contrast and injected(*contrast, output.views)
            losses, parts = self.objective(
                output, targets, batch.heights, weights, shares, of_views
            )
            if gan is not None:
                page = output.reconstruction
                losses = losses + gan.generator_terms(page, fake, targets, batch.heights, shares)
                parts["loss"] = losses.detach()
        return losses, parts

    def second_view(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return images and heights of the second views of a batch's pages.

        It is the page at its other width, if the shards have it, else the same page; augmented with
        random numbers of its own.
        """
        other = batch if batch.other is None else batch.other
        images, _ = self.second(other, self.seed + SECOND_VIEW)
        return images, other.heights

    def views_of(self, batch: Batch) -> Tensor:
        """Encode both views of a batch on the device to `mu`: (2, B, D)."""
        inputs, _ = self.augment(batch, self.seed)
        return self.model(inputs, batch.heights, None, None, self.second_view(batch)).views
