"""The weights of the loss terms at one time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaetrain.losses.config import ObjectiveSettings

if TYPE_CHECKING:
    from torch import Tensor


PICTURE_TERMS = ("recon", "ssim", "ms_ssim", "gradient", "perceptual")


@dataclass(frozen=True)
class Weights:
    """What multiplies each loss now.

    Attributes:
        recon, ssim, ms_ssim, gradient, perceptual: weights of these losses.
        beta: weight of the KL, a number, or a scalar on the device where a controller holds it.
        capacity: nats the KL is drawn towards; None: it is drawn to 0.
    """

    recon: float = 1.0
    ssim: float = 0.0
    ms_ssim: float = 0.0
    gradient: float = 0.0
    perceptual: float = 0.0
    beta: float | Tensor = 0.0
    capacity: float | None = None


def terms_in_use(experiment: ObjectiveSettings) -> list[str]:
    """The picture losses that weigh something at any time of the training."""
    used = [
        {term: getattr(part, term) for term in PICTURE_TERMS}
        for part in (experiment.loss, *experiment.curriculum.phases)
    ]
    return [term for term in PICTURE_TERMS if any(part[term] for part in used)]
