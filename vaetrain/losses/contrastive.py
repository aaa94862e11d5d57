"""Contrastive loss of two views of each page, over the global batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.1


def info_nce(views: Tensor, templates: Tensor) -> Tensor:
    """Compute InfoNCE (van den Oord et al. 2018) of the cosines of two views of N pages.

    The positive of a view is the page's other view. Its negatives are both views of all pages of
    other templates: pages of one template are too alike to be told apart. A page is the mean of its
    two views, as in SimCLR (Chen et al. 2020).

    Args:
        views: (2, N, D).
        templates: Long (N,), -1 for a page without a template.

    Returns: float64 (N,), at least 0.
    """
    unit = F.normalize(views.double(), dim=2)
    count = len(templates)
    logits = unit.flatten(0, 1) @ unit.flatten(0, 1).T / TEMPERATURE
    row = torch.arange(count, device=views.device)
    related = (templates[:, None] == templates) & (templates >= 0)
    related = related | (row[:, None] == row)
    negatives = logits.masked_fill(related.repeat(2, 2), -torch.inf)
    positives = (unit[0] * unit[1]).sum(dim=1).repeat(2) / TEMPERATURE
    losses = torch.cat([positives[:, None], negatives], 1).logsumexp(dim=1) - positives
    return losses.view(2, count).mean(dim=0)


def values_and_gradients(views: Tensor, templates: Tensor) -> tuple[Tensor, Tensor]:
    """Return `info_nce` of each page and the gradient of its sum at the views, both float32.

    Args as of `info_nce`; the results are detached, (N,) and (2, N, D).
    """
    with torch.enable_grad():
        views = views.detach().requires_grad_()
        losses = info_nce(views, templates)
        (gradients,) = torch.autograd.grad(losses.sum(), views)
    return losses.detach().float(), gradients.float()


def injected(values: Tensor, gradients: Tensor, views: Tensor) -> Tensor:
    """Return losses with these values, whose sum has these gradients at the views.

    A page's loss depends on all pages of the global batch, which no micro batch holds. So the
    gradients are computed from the views of all pages first, and applied to each micro batch's own
    (Gao et al. 2021, "Scaling deep contrastive learning batch size", section 3).

    Args:
        values: (B,).
        gradients: (2, B, D), detached.
        views: (2, B, D), of this micro batch.
    """
    products = (gradients * views).sum(dim=(0, 2))
    return values + products - products.detach()
