"""The KL term: divergence of the posteriors from the prior, and its reduction to a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from vaetrain.losses.config import BetaConfig
from vaetrain.model.gaussian import gaussian_kl
from vaetrain.model.vae import VAEOutput


def kl_per_page_and_dimension(output: VAEOutput) -> Tensor:
    """Return the KL of each page's latent in nats, float32 (B, K).

    There is one column for each dimension of the latent (for a spatial latent its channels, each
    summed over the page) and one for each level of a ladder.
    """
    kl = gaussian_kl(output.mu, output.logvar)
    return torch.cat([kl.flatten(2).sum(dim=2) if kl.dim() > 2 else kl, output.ladder], dim=1)


def kl_loss(
    kl: Tensor,
    config: BetaConfig,
    capacity: float | None,
    heights: Tensor,
    width: int,
    levels: int = 0,
    factor: float = 1.0,
) -> Tensor:
    """Reduce the KL (B, K) of `kl_per_page_and_dimension` to the value that beta multiplies: (B,).

    Each dimension counts at least `free_bits` nats, so below that it has no gradient (Kingma et al.
    2016, appendix C.8, here for each page by itself). The KL of a ladder's levels is then
    multiplied by `factor`, so beta times `factor` is their price. With a capacity the
    distance of the sum from the capacity is minimised (Burgess et al. 2018, eq. 8).
    `config.reduction` is applied last.

    Args:
        capacity: nats per page; None: the KL itself is minimised.
        heights: Long (B,), valid rows.
        width: pixels of a page's row.
        levels: number of a ladder's levels, the last columns.
        factor: of these columns, see `Weights.levels`.
    """
    kl = kl.clamp(min=config.free_bits)
    if levels:
        latent, ladder = kl.split([kl.shape[1] - levels, levels], dim=1)
        kl = torch.cat([latent, factor * ladder], dim=1)
    total = kl.sum(dim=1)
    if capacity is not None:
        total = (total - capacity).abs()
    if config.reduction == "mean":
        return total / kl.shape[1]
    if config.reduction == "pixel":
        return total / (heights * width)
    return total
