"""Interpolation between pages through the latent space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from shards.reading.batch import Batch
from vaetrain.inference.trained_model import TrainedModel


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Interpolate spherically between two latents, with linearly interpolated length.

    Args:
        start, end: (D,).

    Returns: (steps, D), from `start` to `end` on a great circle (Shoemake 1985; White 2016, section
        2.1). The great circle is undefined if one latent is zero, or both have the same or opposite
        directions; then the points lie on the straight line.
    """
    share = torch.linspace(0, 1, steps, device=start.device).unsqueeze(1)
    lengths = start.norm(), end.norm()
    angle = torch.arccos(torch.nn.functional.cosine_similarity(start, end, dim=0).clamp(-1, 1))
    if min(lengths) == 0 or torch.sin(angle) < 1e-4:
        return torch.lerp(start, end, share)
    arc = torch.sin((1 - share) * angle) * start / lengths[0]
    arc = arc + torch.sin(share * angle) * end / lengths[1]
    return arc / torch.sin(angle) * torch.lerp(*lengths, share)


def interpolate_latents(ends: Tensor, steps: int) -> Tensor:
    """Interpolate between two latents of any shape: (2, ...) to (steps, ...), see `slerp`."""
    path = slerp(ends[0].flatten(), ends[1].flatten(), steps)
    return path.view(steps, *ends.shape[1:])


def path_heights(ends: Tensor, steps: int) -> Tensor:
    """Return linearly interpolated heights between two pages' Long (2,), rounded: Long (steps,)."""
    first, last = ends.tolist()
    return torch.linspace(first, last, steps, device=ends.device).round().long()


def interpolate_pages(
    trained: TrainedModel, ends: Sequence[Batch], steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the `steps` pages from one single page to another, with the prior's detail if any.

    Returns: batches of images (B, 1, H, W), not clipped, and their heights Long (B,).
    """
    path = interpolate_latents(trained.latents(ends), steps)
    heights = path_heights(torch.cat([end.heights for end in ends]), steps)
    yield from trained.path_batches(path, heights)
