"""What a VAE-GAN learns about its own balance as it goes: device scalars, saved with the run."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

DECAY = 0.99  # of the moving means of logits (Tseng et al. 2021, section 4.1)


class GradientBalance:
    """The adaptive weight of an adversarial loss, by gradients at the reconstruction.

    Esser et al. 2021, eq. 7, hold the gradients of the two losses at the decoder's last layer in
    proportion. Here they are measured where the two meet, at the reconstruction, so no layer has
    to be whole on any rank; as squared norms summed over samples and ranks, so that the cut of a
    batch does not matter; and from the step before, so that they are there in time. Both carry
    whatever factor the engine scales its losses by, and it cancels in their ratio.

    Attributes:
        weight: float32 scalar, |gradient of the reconstruction losses| / |gradient of the
            adversarial loss| in the last step, at most `maximum`; 1 before the first.
        squares: float64 (2,), this rank's squared norms in the step under way.
        one: float32 scalar 1, the weight that is not adaptive.
    """

    def __init__(self, maximum: float, device: torch.device) -> None:
        self.maximum = maximum
        self.one = torch.ones((), device=device)
        self.weight = self.one.clone()
        self.squares = torch.zeros(2, dtype=torch.float64, device=device)

    def fork(self, reconstruction: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Two views of the reconstruction, whose gradients are measured apart.

        Args:
            factor: scalar; what comes back through the second view is multiplied by it, after it
                was measured. So a branch that does not count yet is measured already.
        """
        ours = reconstruction.view_as(reconstruction)
        theirs = _WeighedGradient.apply(reconstruction, factor)
        if reconstruction.requires_grad:
            ours.register_hook(partial(self._measure, 0))
            theirs.register_hook(partial(self._measure, 1))
        return ours, theirs

    def _measure(self, which: int, gradient: Tensor) -> None:
        self.squares[which] += gradient.float().square().sum(dtype=torch.float64)

    def update(self, squares: Tensor, applied: Tensor) -> None:
        """Take the ratio of a step's squared norms, float64 (2,), summed over all ranks.

        Where one of them is 0 or not finite, or the step was not `applied`, the weight stays.
        """
        ratio = (squares[0] / squares[1]).sqrt()
        usable = applied & ratio.isfinite() & (ratio > 0)
        bounded = ratio.clamp(max=self.maximum).to(self.weight.dtype)
        self.weight = torch.where(usable, bounded, self.weight)
        self.squares.zero_()


class _WeighedGradient(torch.autograd.Function):
    """The same tensor; its gradient times a factor."""

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
        """Add the mean logits, scalars, of a global batch whose step was `applied`."""
        step = torch.stack([real, fake, torch.ones_like(real)]).double()
        self.sums = torch.where(applied, DECAY * self.sums + (1 - DECAY) * step, self.sums)

    def read(self) -> tuple[Tensor, Tensor]:
        """The mean logits of originals and of reconstructions, float32 scalars; 0 at first."""
        means = (self.sums[:2] / self.sums[2].clamp(min=1 - DECAY)).float()
        return means[0], means[1]
