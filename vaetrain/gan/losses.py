"""The terms of a game between a VAE and its discriminator, as pure functions of their verdicts.

Each is a value per page, (B,). Where there is a logit for every patch, a term is the mean over the
page's patches; so neither padding nor the cut of a batch changes anything.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vaetrain.gan.discriminators import DiscriminatorOutput

# The logit between "reconstruction" and "original".
BORDERS = {"hinge": 0.0, "nonsaturating": 0.0, "leastsquares": 0.5}


def discriminator_loss(kind: str, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> Tensor:
    """What the discriminator minimises for a page and its reconstruction: (B,).

    hinge: max(0, 1 - D(x)) + max(0, 1 + D(y)) (Miyato et al. 2018, eq. 16);
    nonsaturating: -log sigmoid(D(x)) - log(1 - sigmoid(D(y))) (Goodfellow et al. 2014, eq. 1);
    leastsquares: ((D(x) - 1)^2 + D(y)^2) / 2 (Mao et al. 2017, eq. 9).
    """
    if kind == "hinge":
        return real.page_mean(F.relu(1 - real.logits)) + fake.page_mean(F.relu(1 + fake.logits))
    if kind == "nonsaturating":
        originals = real.page_mean(F.softplus(-real.logits))
        return originals + fake.page_mean(F.softplus(fake.logits))
    originals = real.page_mean((real.logits - 1).square())
    return 0.5 * (originals + fake.page_mean(fake.logits.square()))


def generator_loss(kind: str, fake: DiscriminatorOutput) -> Tensor:
    """What the VAE minimises for a reconstruction y: (B,).

    hinge: -D(y); nonsaturating: -log sigmoid(D(y)), whose gradient does not vanish where the
    discriminator is sure; leastsquares: (D(y) - 1)^2 / 2. Sources as for the discriminator.
    """
    if kind == "hinge":
        return -fake.page_mean(fake.logits)
    if kind == "nonsaturating":
        return fake.page_mean(F.softplus(-fake.logits))
    return 0.5 * fake.page_mean((fake.logits - 1).square())


def accuracy(kind: str, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> Tensor:
    """The share of logits on the right side, of a page and its reconstruction: (B,) in [0, 1]."""
    border = BORDERS[kind]
    right = real.page_mean((real.logits > border).float())
    return 0.5 * (right + fake.page_mean((fake.logits <= border).float()))


def r1(originals: Tensor, real: DiscriminatorOutput) -> Tensor:
    """|grad D(x)|^2 / 2 at the original pages (Mescheder et al. 2018, eq. 9): (B,).

    D(x) is the page's mean logit, the norm is over all its pixels. Differentiable once more.

    Args:
        originals: (B, 1, H, W), requiring a gradient.
        real: the verdict on them.
    """
    logits = real.page_mean(real.logits)
    (gradient,) = torch.autograd.grad(logits.sum(), originals, create_graph=True)
    return 0.5 * gradient.square().sum(dim=(1, 2, 3))


def lecam(
    real: DiscriminatorOutput, fake: DiscriminatorOutput, mean_real: Tensor, mean_fake: Tensor
) -> Tensor:
    """(D(x) - mean of D(y))^2 + (D(y) - mean of D(x))^2 (Tseng et al. 2021, section 3.2): (B,).

    Args:
        mean_real, mean_fake: scalars, moving means of earlier logits of originals and
            reconstructions.
    """
    originals = real.page_mean((real.logits - mean_fake).square())
    return originals + fake.page_mean((fake.logits - mean_real).square())


def feature_distance(real: DiscriminatorOutput, fake: DiscriminatorOutput) -> Tensor:
    """Mean squared difference of features, the mean over the discriminator's layers: (B,).

    Of each layer the mean over the page's places and channels: the reconstruction error of Larsen
    et al. 2016, section 2.3, a Gaussian's of unit variance, up to its factor.
    """
    distances = []
    for (ours, rows), (theirs, _) in zip(fake.features, real.features, strict=True):
        places = rows.count * ours.shape[1] * ours.shape[3]
        distances.append((ours - theirs).square().sum(dim=(1, 2, 3)) / places)
    return torch.stack(distances).mean(dim=0)
