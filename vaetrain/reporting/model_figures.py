"""Figures of a model: reconstructions with error maps, prior samples and an interpolation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from shards.randomness import sample_keys
from shards.reading.batch import Batch
from vaetrain.inference.interpolation import interpolate_latents
from vaetrain.inference.prior_samples import draw_pages, level_noise, path_noise
from vaetrain.page_pictures import as_grey, error_map, rows_of_pages
from vaetrain.prior.prior import Prior


@torch.no_grad()
def model_figures(
    model: nn.Module, batch: Batch, prior: Prior | None = None
) -> dict[str, np.ndarray]:
    """Draw the figures of a model; return grey images, uint8 (H, W), by name.

    In `reconstructions` the rows are the pages, their reconstructions and the error maps.

    Args:
        batch: pages to reconstruct, on the host. The figure `interpolation` is between the last two
            pages; it is omitted if the batch has only one page.
        prior: of the samples; None: a standard normal distribution.
    """
    device = next(model.parameters()).device
    batch = batch.to(device)
    images, heights = batch.images(), batch.heights
    output = model.reconstruct(model.posterior(images, heights), heights, batch.size)
    mu = output.mu
    made = output.reconstruction.clamp(0, 1)
    rows = [as_grey(images), as_grey(made), error_map(made, images)]
    count = len(batch)
    figures = {
        "reconstructions": rows_of_pages(rows, heights.cpu().numpy()),
        "prior_samples": prior_samples(model, prior, mu.shape, batch.size),
    }
    if count > 1:
        path = interpolate_latents(mu[[-1, -2]], count)
        ladder = path_noise(model, count, batch.size)
        figures["interpolation"] = decode_row(model, path, batch.size, ladder)
    return figures


@torch.no_grad()
def prior_samples(
    model: nn.Module, prior: Prior | None, shape: tuple[int, ...], size: tuple[int, int]
) -> np.ndarray:
    """Decode samples of the prior side by side: a grey image uint8 (H, W).

    Args:
        shape: of the latents; the first number is that of the samples.
        size: (H, W) that the pages are padded to; without a prior, every page is that high.
    """
    numbers = torch.arange(shape[0], device=model.skip_gate.device)
    keys = sample_keys(0, torch.zeros_like(numbers), numbers, "prior")
    if prior is None:
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return decode_row(model, noise.to(numbers.device), size, level_noise(model, keys, size))
    images, heights = draw_pages(model, prior, keys, None, width=size[1], max_height=size[0])
    return rows_of_pages([as_grey(images)], heights.cpu().numpy())


@torch.no_grad()
def decode_row(
    model: nn.Module, z: Tensor, size: tuple[int, int], ladder: tuple[Tensor, ...]
) -> np.ndarray:
    """Decode latents (B, ...) and noise of a ladder's levels to pages of one size, side by side."""
    heights = torch.full((len(z),), size[0], device=z.device)
    images = as_grey(model.decode_padded(z, heights, size, ladder))
    return rows_of_pages([images], heights.cpu().numpy())
