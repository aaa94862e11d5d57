"""Draws from a model's prior: a fitted one, or the normal distribution of the training."""

from __future__ import annotations

import torch
from torch import Tensor

from shards.randomness import sample_keys
from vaetrain.model.vae import VAE, draw_noise
from vaetrain.prior.prior import Prior


def draw_pages(
    model: VAE,
    prior: Prior | None,
    keys: Tensor,
    heights: Tensor | None,
    *,
    width: int,
    max_height: int,
    label: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw pages: decoded draws of the latents, to which the prior's detail is added if it has one.

    A page depends on its key alone.

    Args:
        prior: None: a standard normal distribution.
        keys: Long (B,), of `shards.randomness.sample_keys`, on the model's device.
        heights: Long (B,), rows of the pages; None: drawn by the prior; without one `max_height`.
        width: of the pages in pixels.
        label: see `Prior.sample`.

    Returns: images (B, 1, H, W), not clipped, padded to `padded_size`, and heights Long (B,).
    """
    if prior is not None:
        z, heights = prior.sample(keys, heights, label)
    elif heights is None:
        heights = torch.full_like(keys, max_height)
    size = padded_size(model, heights, width)
    if prior is not None and prior.detail is not None:
        # The detail was fitted to pages that are decoded from the vector alone.
        return prior.detail.draw(model.decode_padded(z, heights, size), heights, keys), heights
    noise = draw_noise(model, keys, size, gate=0.0, dropout=0.0)
    if prior is None:
        z = model.keep_latent(noise.eps, heights)
    return model.decode_padded(z, heights, size, noise.ladder), heights


def draw_path(
    model: VAE, prior: Prior | None, path: Tensor, heights: Tensor, size: tuple[int, int]
) -> Tensor:
    """Decode steps of an interpolation, to which the prior's detail is added if it has one.

    All steps have the same random numbers, so that a page changes only as its latent does.

    Args:
        path: latents (S, ...).
        heights: Long (S,), rows of the pages.
        size: (H, W) of the pages with their padding; H is a multiple of the model's stride.

    Returns: (S, 1, H, W), not clipped.
    """
    if prior is None or prior.detail is None:
        return model.decode_padded(path, heights, size, path_noise(model, len(path), size))
    decoded = model.decode_padded(path, heights, size)
    return prior.detail.draw(decoded, heights, _path_keys(len(path), path.device))


def padded_size(model: VAE, heights: Tensor, width: int) -> tuple[int, int]:
    """Return the size (H, W) that pages of these heights are padded to together."""
    return -(-int(heights.max()) // model.stride) * model.stride, width


def level_noise(model: VAE, keys: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Draw noise of a ladder's levels, as `VAE.decode` takes it; empty without a ladder."""
    return draw_noise(model, keys, size, gate=0.0, dropout=0.0).ladder


def path_noise(model: VAE, steps: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Draw noise of a ladder's levels for an interpolation: the same for every step.

    So the detail of a page changes only as its latent does.
    """
    if not model.ladder_levels:
        return ()
    return level_noise(model, _path_keys(steps, model.skip_gate.device), size)


def _path_keys(steps: int, device: torch.device) -> Tensor:
    same = torch.zeros(steps, dtype=torch.long, device=device)
    return sample_keys(0, same, same, "path")
