"""Pictures of wireframes that a person wants to look at."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from shards.reader import Batch

BRIGHTNESS = 2.5  # real pages use less than half of the grey range
ERROR_BRIGHTNESS = 10.0  # a reconstruction is seldom further from its page than a tenth
GAP = 4  # pixels between pictures
PAPER = 255


def as_grey(images: Tensor) -> np.ndarray:
    """Images (B, 1, H, W) in [0, 1] as uint8 (B, H, W), brightened for the eye."""
    return _grey(images * BRIGHTNESS)


def error_map(images: Tensor, others: Tensor) -> np.ndarray:
    """How far images (B, 1, H, W) are from others, uint8 (B, H, W): black where nowhere."""
    return _grey((images - others).abs() * ERROR_BRIGHTNESS)


def _grey(bright: Tensor) -> np.ndarray:
    grey = bright.detach().float().clamp(0, 1) * 255
    return grey.round().to(torch.uint8).squeeze(1).cpu().numpy()


def rows_of_pages(rows: list[np.ndarray], heights: np.ndarray) -> np.ndarray:
    """Pages side by side, the rows of the list below one another.

    Args:
        rows: uint8 (B, H, W) each; column b shows page b of every row.
        heights: (B,) rows of each page; what lies below is paper.

    Returns: uint8 (height, width), white between and below the pages.
    """
    tallest = int(heights.max())
    lines = []
    for row in rows:
        columns = []
        for page, height in zip(row, heights, strict=True):
            column = np.full((tallest + GAP, page.shape[1] + GAP), PAPER, np.uint8)
            column[:height, : page.shape[1]] = page[:height]
            columns.append(column)
        lines.append(np.concatenate(columns, axis=1))
    return np.concatenate(lines, axis=0)


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


@torch.no_grad()
def panel(model: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
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
