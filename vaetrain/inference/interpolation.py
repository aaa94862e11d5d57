"""Interpolation between latents."""

from __future__ import annotations

import torch
from torch import Tensor


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points on the great circle between two latents, at linearly growing length.

    Args:
        start, end: (D,).

    Returns: (steps, D), from `start` to `end` (Shoemake 1985; White 2016, section 2.1). Where one
        is zero, or they lie in one direction or in opposite ones, no great circle is singled out:
        then along the straight line.
    """
    share = torch.linspace(0, 1, steps, device=start.device).unsqueeze(1)
    lengths = start.norm(), end.norm()
    angle = torch.arccos(torch.nn.functional.cosine_similarity(start, end, dim=0).clamp(-1, 1))
    if min(lengths) == 0 or torch.sin(angle) < 1e-4:
        return torch.lerp(start, end, share)
    arc = torch.sin((1 - share) * angle) * start / lengths[0]
    arc = arc + torch.sin(share * angle) * end / lengths[1]
    return arc / torch.sin(angle) * torch.lerp(*lengths, share)
