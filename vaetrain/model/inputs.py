"""Checks of pages and latents that users give to a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def checked_images(images: Tensor, heights: Tensor, width: int, stride: int) -> Tensor:
    """Return pages (B, 1, H, width), padded below to a multiple of `stride` rows.

    Padding changes nothing: every feature map is 0 below a page's rows.

    Raises ValueError, which states the shape and what is allowed, for another number of dimensions,
    channels or columns, for no page or no row, for integers, for values that are not finite, and
    for `heights` that `checked_heights` refuses.
    """
    expected = f"must be (B, 1, H, {width}) with B and H at least 1, values in [0, 1]"
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 1 or shape[3] != width or 0 in shape:
        raise ValueError(f"images: the shape is {shape}, {expected}")
    if not images.is_floating_point():
        raise ValueError(f"images: are {images.dtype}, {expected}; divide bytes by 255")
    checked_heights(heights, shape[0], shape[2])
    if not bool(images.isfinite().all()):
        raise ValueError(f"images: of shape {shape} have values that are not finite, {expected}")
    return F.pad(images, (0, 0, 0, -shape[2] % stride))


def checked_latents(
    z: Tensor, heights: Tensor, latent: tuple[int, ...], size: tuple[int, int], width: int
) -> None:
    """Check latents for pages of `size`.

    Args:
        latent: shape of one page's latent for pages of this size.
        width: of the model's pages.

    Raises ValueError, which states the shape and what is allowed.
    """
    shape = tuple(z.shape)
    expected = f"must be (B, {', '.join(map(str, latent))}) for pages of {size[0]} x {size[1]}"
    if len(size) != 2 or size[0] < 1 or size[1] != width:
        raise ValueError(f"size: is {tuple(size)}, must be (H, {width}) with H at least 1")
    if shape[1:] != latent or not shape[0]:
        raise ValueError(f"z: the shape is {shape}, {expected} with B at least 1")
    if not z.is_floating_point():
        raise ValueError(f"z: is {z.dtype}, {expected}, of floating point")
    checked_heights(heights, shape[0], size[0])
    if not bool(z.isfinite().all()):
        raise ValueError(f"z: of shape {shape} has values that are not finite")


def checked_heights(heights: Tensor, count: int, rows: int) -> None:
    """Raise ValueError unless `heights` are `count` integers from 1 to `rows`."""
    expected = f"must be ({count},), integers from 1 to {rows}, the rows of each page"
    if tuple(heights.shape) != (count,):
        raise ValueError(f"heights: the shape is {tuple(heights.shape)}, {expected}")
    if heights.is_floating_point() or heights.is_complex() or heights.dtype == torch.bool:
        raise ValueError(f"heights: are {heights.dtype}, {expected}")
    least, most = (int(value) for value in heights.aminmax())
    if least < 1 or most > rows:
        raise ValueError(f"heights: are {least} to {most}, {expected}")
