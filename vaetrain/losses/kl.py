"""The KL term: divergence of the posteriors from the prior, and its reduction to a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from vaetrain.model.gaussian import gaussian_kl
from vaetrain.model.vae import VAEOutput


def kl_per_page_and_dimension(output: VAEOutput) -> Tensor:
    """Return the KL of each page's latent in nats, float32 (B, K).

    There is one column for each dimension of the latent (for a spatial latent its channels, each
    summed over the page) and one for each level of a ladder.
    """
    kl = gaussian_kl(output.mu, output.logvar)
    return torch.cat([kl.flatten(2).sum(dim=2) if kl.dim() > 2 else kl, output.ladder], dim=1)
