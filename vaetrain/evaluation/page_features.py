"""Fixed features of pages, real or made by a model, in which sets of pages are compared.

All are functions of one page without its padding, after rounding to 8 bits as in a picture file:

- height in page widths, grey value, and share of flat pixels, which equal both
  horizontal neighbours: `SCALARS` values;
- for horizontal and for vertical neighbours: mean step, and the share of neighbours whose step is
  over each of `STEPS`;
- grey value and strength of edges in 16 x 8 equal cells of the page.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 255.0  # of an 8-bit picture
CELLS = (16, 8)  # rows and columns
SCALARS = 3
FLAT_SHARE = 2  # column of the features
# Thresholds between steps of an 8-bit picture: antialiased edges, one nested box (6 or 7 levels of
# grey), two and more boxes.
STEPS = tuple(level / LEVELS for level in (0.5, 2.5, 4.5, 5.5, 7.5, 11.5))
FEATURES = SCALARS + 2 * (1 + len(STEPS)) + 2 * CELLS[0] * CELLS[1]
RASTER = 32  # a raster has this many columns, or up to twice as many


def rounded(images: Tensor) -> Tensor:
    """Clip images to [0, 1] and round them to 8 bits; nan, of a diverged model, becomes 0."""
    return (images.nan_to_num(0.0).clamp(0, 1) * LEVELS).round_().div_(LEVELS)


def page_features(images: Tensor, heights: Tensor) -> Tensor:
    """Compute the features of the module's docstring: (B, FEATURES), on the images' device.

    Args:
        images: float (B, 1, H, W), rounded, zero in the padding; W is a multiple of 8.
        heights: Long (B,), rows of each page.
    """
    rows, width = images.shape[2:]
    row = torch.arange(rows, device=images.device)
    outside = (row >= heights[:, None])[:, None, :, None]
    across = images.diff(dim=3).abs().masked_fill(outside, 0)
    down = images.diff(dim=2).abs().masked_fill(outside[:, :, 1:], 0)
    # Sums are float64, so that after rounding to float32 they do not depend on the padding.
    columns = [
        heights / width,
        images.sum(dim=(1, 2, 3), dtype=torch.float64) / (heights * width),
        _flat_pixels(across, outside) / (heights * (width - 2)),
    ]
    for steps, pairs in (
        (across, heights * (width - 1)),
        (down, (heights - 1).clamp(min=1) * width),
    ):
        columns.append(steps.sum(dim=(1, 2, 3), dtype=torch.float64) / pairs)
        columns += [(steps > least).sum(dim=(1, 2, 3)) / pairs for least in STEPS]
    edges = F.pad(across, (0, 1)) + F.pad(down, (0, 0, 0, 1))
    cells = page_cells(torch.cat([images, edges], 1), heights)
    return torch.cat([torch.stack(columns, 1), cells.flatten(1)], 1).float()


def _flat_pixels(across: Tensor, outside: Tensor) -> Tensor:
    same = across < STEPS[0]
    return (same[..., 1:] & same[..., :-1] & ~outside).sum(dim=(1, 2, 3))


def page_cells(maps: Tensor, heights: Tensor) -> Tensor:
    """Compute means of maps (B, C, H, W) in equal cells of each page: float64 (B, C, *CELLS)."""
    rows, columns = CELLS
    batch, channels, height, width = maps.shape
    narrow = maps.view(batch, channels, height, columns, width // columns).double().mean(dim=4)
    edges = heights.double()[:, None] * torch.arange(rows + 1, device=maps.device) / rows
    row = torch.arange(height, device=maps.device)
    upper, lower = edges[:, :-1, None], edges[:, 1:, None]
    share = (torch.minimum(row + 1, lower) - torch.maximum(row, upper)).clamp(min=0)
    return (share / share.sum(dim=2, keepdim=True))[:, None] @ narrow


def raster(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Average images (B, 1, H, W) in squares, padded with zeros to `size`: (B, cells).

    Args:
        size: rows and columns of the raster of the tallest page, see `raster_size`.
    """
    small = averaged(images, _square(images.shape[3]))
    return F.pad(small, (0, 0, 0, size[0] - small.shape[2])).flatten(1)


def averaged(images: Tensor, square: int) -> Tensor:
    """Average images (B, 1, H, W) in squares of pixels; rows missing in the last are zeros."""
    padded = F.pad(images, (0, 0, 0, -images.shape[2] % square))
    return F.avg_pool2d(padded, square, ceil_mode=True)


def raster_size(rows: int, width: int) -> tuple[int, int]:
    """Return rows and columns of the raster of pages of up to `rows` rows."""
    square = _square(width)
    return -(-rows // square), -(-width // square)


def _square(width: int) -> int:
    return max(1, width // RASTER)


def raster_distances(
    first: Tensor, second: Tensor, first_heights: Tensor, second_heights: Tensor, width: int
) -> Tensor:
    """Compute the mean absolute difference of rasters, over the rows of the taller page: (N, M).

    Args:
        first, second: (N, cells) and (M, cells), of `raster`.
        first_heights, second_heights: Long, rows of the pages in pixels.
        width: of the pages in pixels.
    """
    square = _square(width)
    columns = -(-width // square)
    taller = torch.maximum(first_heights[:, None], second_heights)
    rows = (taller + square - 1) // square
    return torch.cdist(first, second, p=1) / (rows * columns)
