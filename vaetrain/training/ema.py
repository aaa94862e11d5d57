"""Exponential moving average (EMA) of the weights, which is evaluated and exported."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vaetrain.engines.base import AVERAGE, WEIGHT, Engine


class WeightEma:
    """EMA of the fp32 weights, sharded over the ranks like the optimizer's state.

    A whole averaged model exists only while a caller of `model` holds it.
    """

    def __init__(self, engine: Engine, skeleton: nn.Module, half_life_images: float) -> None:
        """Start from the current weights.

        Args:
            skeleton: a model of the same structure, for evaluation; its tensors may be on `meta`.
            half_life_images: images after which the share of a weight has halved; 0: the EMA equals
                the weights.
        """
        self.engine = engine
        self.skeleton = skeleton
        self.half_life_images = half_life_images
        engine.keep_average()

    def update(self, images: int, step_images: int, applied: Tensor) -> None:
        """Move the EMA towards the weights after a step.

        The half-life grows with training up to its setting (Karras et al. 2022, "Elucidating the
        Design Space of Diffusion-Based Generative Models", appendix F.2: 5% of the images seen),
        so that the random initial weights are soon forgotten.

        Args:
            images: image count at the end of the step.
            step_images: images of the step.
            applied: bool scalar on the device; where false, nothing changes.
        """
        half_life = min(self.half_life_images, 0.05 * images)
        decay = 0.5 ** (step_images / half_life) if half_life > 0 else 0.0
        move_towards(self.engine.slices(AVERAGE), self.engine.slices(WEIGHT), (1 - decay) * applied)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every averaged parameter and every buffer, whole, by name. Collective."""
        yield from self.engine.gather(AVERAGE)
        yield from self.engine.buffers()

    def model(self) -> nn.Module:
        """Return the averaged model on every rank, in evaluation mode, frozen. Collective.

        Every rank holds all of its weights, since each evaluates pages of its own. On engines that
        do not shard weights it shares the EMA's memory.
        """
        model = copy.deepcopy(self.skeleton)
        model.load_state_dict(dict(self.tensors()), assign=True)
        return model.eval().requires_grad_(False)


@torch.no_grad()
def move_towards(averages: list[Tensor], weights: list[Tensor], share: Tensor) -> None:
    """Replace each average by `(1 - share) * average + share * weight`.

    Args:
        share: float scalar on the device of the training step, 0 to 1.
    """
    # Slices of an offloaded optimizer are in host memory.
    share = share.to(averages[0].device)
    if averages[0].device.type == "cpu":
        torch._foreach_lerp_(averages, weights, [share] * len(averages))
    else:
        mix(averages, weights, share)


def mix(averages: list[Tensor], weights: list[Tensor], share: Tensor) -> None:
    """Do the same in three multi-tensor operations, exact where `share` is 0 or 1.

    With a list of scalars, `_foreach_lerp_` has no fused kernel: it launches one for each tensor.
    The scaled copy of the weights takes the memory that the gradients have just left.
    """
    scaled = torch._foreach_mul(weights, share)
    torch._foreach_mul_(averages, 1 - share)
    torch._foreach_add_(averages, scaled)
