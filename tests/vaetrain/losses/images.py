"""Images that the tests of losses share."""

from __future__ import annotations

import torch
from torch import Tensor


def flat_and_noisy(batch: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a noisy prediction and its target of flat 8 x 8 patches, as wireframes have."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 1, -(-height // 8), -(-width // 8), generator=generator)
    target = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :, :height, :width] * 0.5
    noise = torch.randn(target.shape, generator=generator)
    return target + 0.1 * noise, target


def full_heights(images: Tensor) -> Tensor:
    """Return the heights of pages without padding, Long (B,)."""
    return torch.full((len(images),), images.shape[2])


def random_pages(heights: tuple[int, ...], width: int, seed: int) -> Tensor:
    """Return random pages, padded with zeros to a common multiple of 16 rows."""
    rows = -(-max(heights) // 16) * 16
    images = torch.rand(len(heights), 1, rows, width, generator=torch.Generator().manual_seed(seed))
    on_page = torch.arange(rows) < torch.tensor(heights)[:, None]
    return images * on_page[:, None, :, None]
