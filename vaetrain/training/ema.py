"""The exponential moving average of the weights: what is evaluated and handed over."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vaetrain.engines.base import AVERAGE, WEIGHT, Engine


class WeightEma:
    """The fp32 weights' average, kept where they lie: on each rank of what it optimises.

    A whole model of it is put together when it is needed, and forgotten with the last reference.
    """

    def __init__(self, engine: Engine, skeleton: nn.Module, half_life_images: float) -> None:
        """Start from the weights as they are.

        Args:
            skeleton: a model of the same structure, for evaluation; its tensors may be on `meta`.
            half_life_images: images after which a weight's share has halved; 0 follows at once.
        """
        self.engine = engine
        self.skeleton = skeleton
        self.half_life_images = half_life_images
        engine.keep_average()

    def update(self, images: int, step_images: int, applied: Tensor) -> None:
        """Move towards the weights after a step of `step_images` that ended at `images`.

        Where the step was not `applied`, a bool scalar on the device, nothing moves.

        The half-life grows with training up to its setting (Karras et al. 2022, "Elucidating the
        Design Space of Diffusion-Based Generative Models", appendix F.2: 5% of the images seen),
        so that the random start is soon forgotten.
        """
        half_life = min(self.half_life_images, 0.05 * images)
        decay = 0.5 ** (step_images / half_life) if half_life > 0 else 0.0
        averages, share = self.engine.slices(AVERAGE), (1 - decay) * applied
        with torch.no_grad():
            shares = [share] * len(averages)
            torch._foreach_lerp_(averages, self.engine.slices(WEIGHT), shares)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The average of every parameter, and the buffers as they are, by name. Collective."""
        yield from self.engine.gather(AVERAGE)
        yield from self.engine.buffers()

    def model(self) -> nn.Module:
        """The averaged model, in evaluation mode, without gradients, on every rank. Collective.

        It is the one time a rank holds the whole model, and then nothing but its weights: every
        rank evaluates pages of its own. Where weights are not cut, it shares the average's memory.
        """
        model = copy.deepcopy(self.skeleton)
        model.load_state_dict(dict(self.tensors()), assign=True)
        return model.eval().requires_grad_(False)
