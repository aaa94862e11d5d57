"""Quantities that a VAE-GAN adapts as it trains: device scalars, saved with the run."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

DECAY = 0.99  # of the moving means of logits (Tseng et al. 2021, section 4.1)


class GradientBalance:
    """Adaptive weight of the generator loss, by gradients at the reconstruction.

    Esser et al. 2021, eq. 7, use the gradients of both losses at the decoder's last layer. Here:

    - they are taken at the reconstruction, where the two losses meet, so that no layer has to be
      whole on any rank;
    - as squared norms summed over samples and ranks, so that the split of the batch is irrelevant;
    - of the previous step, so that they are known in time.

    The engine's loss scale multiplies both and cancels in the ratio.

    Attributes:
        weight: float32 scalar, |gradient of the reconstruction losses| / |gradient of the generator
            loss| in the last step, at most `maximum`; 1 before the first step.
        squares: float64 (2,), this rank's squared norms in the current step.
        one: float32 scalar 1, the weight without `gan.adaptive`.
    """

    def __init__(self, maximum: float, device: torch.device) -> None:
        self.maximum = maximum
        self.one = torch.ones((), device=device)
        self.weight = self.one.clone()
        self.squares = torch.zeros(2, dtype=torch.float64, device=device)

    def fork(self, reconstruction: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Return two views of the reconstruction, whose gradients are measured separately.

        Args:
            factor: scalar on the gradient of the second view, applied after it was measured; so it
                can be 0 while the gradient is already measured.

        Returns: the view for the reconstruction losses, and the view for the generator loss.
        """
        page = reconstruction.view_as(reconstruction)
        fake = _ScaleGradient.apply(reconstruction, factor)
        if reconstruction.requires_grad:
            page.register_hook(partial(self._measure, 0))
            fake.register_hook(partial(self._measure, 1))
        return page, fake

    def _measure(self, index: int, gradient: Tensor) -> None:
        self.squares[index] += gradient.float().square().sum(dtype=torch.float64)

    def update(self, squares: Tensor, applied: Tensor) -> None:
        """Set the weight from a step's squared norms; it stays where the ratio is 0 or not finite.

        Args:
            squares: float64 (2,), summed over all ranks.
            applied: bool scalar on the device; where false, the weight stays.
        """
        ratio = (squares[0] / squares[1]).sqrt()
        usable = applied & ratio.isfinite() & (ratio > 0)
        bounded = ratio.clamp(max=self.maximum).to(self.weight.dtype)
        self.weight = torch.where(usable, bounded, self.weight)
        self.squares.zero_()


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor.to(grad.dtype), None


class MovingMeans:
    """Exponential moving means of the logits of originals and of reconstructions.

    Attributes:
        sums: float64 (3,), moving sums of both and of their weights.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, real: Tensor, fake: Tensor, applied: Tensor) -> None:
        """Add the mean logits of a global batch.

        Args:
            real, fake: scalars.
            applied: bool scalar on the device, whether the discriminator step was applied.
        """
        step = torch.stack([real, fake, torch.ones_like(real)]).double()
        self.sums = torch.where(applied, DECAY * self.sums + (1 - DECAY) * step, self.sums)

    def read(self) -> tuple[Tensor, Tensor]:
        """Return the means of originals and of reconstructions, float32 scalars; 0 at first."""
        means = (self.sums[:2] / self.sums[2].clamp(min=1 - DECAY)).float()
        return means[0], means[1]
