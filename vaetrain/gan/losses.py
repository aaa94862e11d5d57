"""GAN losses and feature matching, as pure functions of discriminator outputs.

Each returns one value per page, (B,). Of several logits per page it is the mean over the page, so
neither padding nor the split into micro batches changes the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vaetrain.gan.discriminators import DiscriminatorOutput


@dataclass(frozen=True)
class GanLoss:
    """GAN loss as elementwise functions of logits; listed in `registry.LOSSES`.

    Attributes:
        real: discriminator loss of an original page's logit.
        fake: discriminator loss of a reconstruction's logit.
        generator: generator loss of a reconstruction's logit.
        boundary: logit at which the discriminator is undecided.
    """

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    boundary: float = 0.0


# max(0, 1 - D(x)) + max(0, 1 + D(y)); the generator's is -D(y) (Miyato et al. 2018, eq. 16-17).
HINGE = GanLoss(
    real=lambda logits: F.relu(1 - logits),
    fake=lambda logits: F.relu(1 + logits),
    generator=lambda logits: -logits,
)
# -log sigmoid(D(x)) - log(1 - sigmoid(D(y))) (Goodfellow et al. 2014, eq. 1). The generator's is
# -log sigmoid(D(y)), whose gradient does not vanish where the discriminator is certain.
NONSATURATING = GanLoss(
    real=lambda logits: F.softplus(-logits),
    fake=F.softplus,
    generator=lambda logits: F.softplus(-logits),
)
# ((D(x) - 1)^2 + D(y)^2) / 2; the generator's is (D(y) - 1)^2 / 2 (Mao et al. 2017, eq. 9).
LEAST_SQUARES = GanLoss(
    real=lambda logits: 0.5 * (logits - 1).square(),
    fake=lambda logits: 0.5 * logits.square(),
    generator=lambda logits: 0.5 * (logits - 1).square(),
    boundary=0.5,
)


def discriminator_loss(
    loss: GanLoss, real: DiscriminatorOutput, fake: DiscriminatorOutput
) -> Tensor:
    """Return the discriminator's loss for a page and its reconstruction: (B,)."""
    return real.page_mean(loss.real(real.logits)) + fake.page_mean(loss.fake(fake.logits))


def generator_loss(loss: GanLoss, fake: DiscriminatorOutput) -> Tensor:
    """Return the VAE's loss for a reconstruction: (B,)."""
    return fake.page_mean(loss.generator(fake.logits))


def accuracy(loss: GanLoss, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> Tensor:
    """Return the share of correctly classified logits of a page and its reconstruction: (B,)."""
    correct = real.page_mean((real.logits > loss.boundary).float())
    return 0.5 * (correct + fake.page_mean((fake.logits <= loss.boundary).float()))


def feature_distance(real: DiscriminatorOutput, fake: DiscriminatorOutput) -> Tensor:
    """Return the mean squared difference of features, mean over the discriminator's layers: (B,).

    Of each layer it is the mean over the page's positions and channels: the reconstruction error of
    Larsen et al. 2016, section 2.3, that of a Gaussian of unit variance, up to its factor.
    """
    distances = []
    for (fake_map, rows), (real_map, _) in zip(fake.features, real.features, strict=True):
        elements = rows.count * fake_map.shape[1] * fake_map.shape[3]
        distances.append((fake_map - real_map).square().sum(dim=(1, 2, 3)) / elements)
    return torch.stack(distances).mean(dim=0)
