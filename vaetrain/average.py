"""The exponential moving average of the weights: what is evaluated and handed over."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """A model whose parameters follow another's, in fp32.

    Attributes:
        model: the averaged model, in evaluation mode, without gradients.
    """

    def __init__(self, model: nn.Module, half_life_images: float) -> None:
        """Start from a copy of `model`.

        Args:
            half_life_images: images after which a weight's share has halved; 0 follows at once.
        """
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.half_life_images = half_life_images

    def update(self, model: nn.Module, images: int, step_images: int) -> None:
        """Move towards `model` after a step of `step_images` that ended at `images`.

        The half-life grows with training up to its setting (Karras et al. 2022, "Elucidating the
        Design Space of Diffusion-Based Generative Models", appendix F.2: 5% of the images seen),
        so that the random start is soon forgotten.
        """
        half_life = min(self.half_life_images, 0.05 * images)
        decay = 0.5 ** (step_images / half_life) if half_life > 0 else 0.0
        average = get_ema_multi_avg_fn(decay)
        with torch.no_grad():
            average(list(self.model.parameters()), list(model.parameters()), None)
