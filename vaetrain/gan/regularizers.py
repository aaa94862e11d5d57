"""Regularizers of the discriminator; each returns one value per page, (B,)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vaetrain.gan.discriminators import DiscriminatorOutput


class RegularizerInput(NamedTuple):
    """Arguments of every regularizer.

    Attributes:
        originals: the original pages (B, 1, H, W).
        real, fake: the discriminator's output for them and for their reconstructions.
        mean_real, mean_fake: scalars, moving means of earlier logits of both.
    """

    originals: Tensor
    real: DiscriminatorOutput
    fake: DiscriminatorOutput
    mean_real: Tensor
    mean_fake: Tensor


@dataclass(frozen=True)
class Regularizer:
    """Penalty on the discriminator; listed in `registry.REGULARIZERS`.

    Attributes:
        penalty: (B,) of a micro batch.
        needs_input_gradient: whether `originals` must require a gradient.
    """

    penalty: Callable[[RegularizerInput], Tensor]
    needs_input_gradient: bool = False


def r1(x: RegularizerInput) -> Tensor:
    """Return |grad D(x)|^2 / 2 at the original pages (Mescheder et al. 2018, eq. 9): (B,).

    D(x) is the page's mean logit, the norm is over all its pixels. It can be differentiated once
    more.
    """
    logits = x.real.page_mean(x.real.logits)
    (gradient,) = torch.autograd.grad(logits.sum(), x.originals, create_graph=True)
    return 0.5 * gradient.square().sum(dim=(1, 2, 3))


def lecam(x: RegularizerInput) -> Tensor:
    """Return LeCam's penalty (Tseng et al. 2021, section 3.2): (B,).

    (D(x) - mean of D(y))^2 + (D(y) - mean of D(x))^2, with x original and y its reconstruction.
    """
    originals = x.real.page_mean((x.real.logits - x.mean_fake).square())
    return originals + x.fake.page_mean((x.fake.logits - x.mean_real).square())


R1 = Regularizer(r1, needs_input_gradient=True)
LECAM = Regularizer(lecam)
