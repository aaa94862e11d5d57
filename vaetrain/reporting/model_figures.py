"""Pictures of wireframes that a person wants to look at."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from shards.reading.batch import Batch
from vaetrain.inference.interpolation import slerp
from vaetrain.page_pictures import as_grey, error_map, rows_of_pages


@torch.no_grad()
def model_figures(model: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
    """What every picture book of a model has: reconstructions, prior samples, an interpolation.

    Reconstructions stand below their pages and above maps of their errors.

    Args:
        batch: the pages to reconstruct, on the host; the last two, if there are two, are
            interpolated.
    """
    device = next(model.parameters()).device
    batch = batch.to(device)
    images, heights = batch.images(), batch.heights
    output = model.reconstruct(model.posterior(images, heights), heights, batch.size)
    mu = output.mu
    ours = output.reconstruction.clamp(0, 1)
    rows = [as_grey(images), as_grey(ours), error_map(ours, images)]
    count = len(batch)
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
    shown = {
        "reconstructions": rows_of_pages(rows, heights.cpu().numpy()),
        "prior_samples": decode_row(model, noise.to(device), batch.size),
    }
    if count > 1:
        way = slerp(mu[-1].flatten(), mu[-2].flatten(), count).view_as(mu)
        shown["interpolation"] = decode_row(model, way, batch.size)
    return shown


@torch.no_grad()
def decode_row(model: nn.Module, z: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The pages of latents (B, D), all of one size, side by side."""
    heights = torch.full((len(z),), size[0], device=z.device)
    return rows_of_pages([as_grey(model.decode(z, heights, size))], heights.cpu().numpy())
