"""Geometry: each page's transformations composed into one homography and one resampling.

Homographies are float64 (B, 3, 3), from a page's coordinates before to those after, in image pixels
with the origin at the page's upper left corner; the centre of a pixel is at one half. They are
float64 because a GPU's matrix units would round float32 products (TF32).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vaetrain.augmentation.operations import Kind
from vaetrain.augmentation.parameters import OpParameters, Parameters, applied_ops

_STEP = 2.0**-12  # pixels that source positions are rounded to
_MIN_DEPTH = 1e-3  # least depth of the perspective; a point beyond it is far outside the page


def homographies(kind: Kind, parameters: Parameters, heights: Tensor, width: int) -> Tensor:
    """Compose the warps of a kind, `AXIS_ALIGNED` or `PROJECTIVE`, for each page."""
    page = _page_sizes(heights, width)
    total = torch.eye(3, dtype=torch.double, device=heights.device).expand(len(heights), 3, 3)
    for _, warp, params in applied_ops(kind, parameters):
        total = warp(params, page) @ total
    return total


def flip(params: OpParameters, page: Tensor) -> Tensor:
    """Mirror left and right."""
    mirror = 1.0 - 2.0 * (params.strength > 0).double()
    factor = torch.stack([mirror, torch.ones_like(mirror)], 1)
    return _scale_and_shift(factor, page / 2 * (1 - factor))


def scale(params: OpParameters, page: Tensor) -> Tensor:
    """Scale about the page's centre."""
    factor = (1 + params.signed(1).double()).expand(-1, 2)
    return _scale_and_shift(factor, page / 2 * (1 - factor))


def translate(params: OpParameters, page: Tensor) -> Tensor:
    """Shift along both axes."""
    return _scale_and_shift(torch.ones_like(page), params.signed(2) * page)


def crop(params: OpParameters, page: Tensor) -> Tensor:
    """Enlarge a random part of the page to the whole page."""
    share = params.strength * params.uniforms[:, 0]
    corner = params.uniforms[:, 1:3] * share.unsqueeze(1) * page
    factor = (1 / (1 - share.double())).unsqueeze(1).expand(-1, 2)
    return _scale_and_shift(factor, -corner * factor)


def rotate(params: OpParameters, page: Tensor) -> Tensor:
    """Rotate about the page's centre."""
    return rotation(params.signed(1)[:, 0], page / 2)


def perspective(params: OpParameters, page: Tensor) -> Tensor:
    """Move each corner of the page inward independently."""
    inward = params.strength.view(-1, 1, 1) * params.uniforms.view(-1, 4, 2)
    return corners_moved_inward(inward * page.unsqueeze(1) / 2, page)


def rotation(degrees: Tensor, centre: Tensor) -> Tensor:
    """Return the rotation by `degrees` (B,), clockwise on screen, about `centre` (B, 2)."""
    angle = torch.deg2rad(degrees.double())
    cos, sin = angle.cos(), angle.sin()
    x, y = centre.unbind(1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    shift_x, shift_y = x - cos * x + sin * y, y - sin * x - cos * y
    return _matrix([cos, -sin, shift_x, sin, cos, shift_y, zero, zero, one])


def corners_moved_inward(inward: Tensor, page: Tensor) -> Tensor:
    """Return the homography that moves the corners of each page inward.

    The mapping of a square to four points in closed form (Heckbert 1989, "Fundamentals of texture
    mapping and image warping", section 2.2.3).

    Args:
        inward: (B, 4, 2) pixels along x and y for the upper left, upper right, lower right and
            lower left corner.
        page: float64 (B, 2), width and height.
    """
    width, height = page.unbind(1)
    (x0, x1, x2, x3), (y0, y1, y2, y3) = inward.double().permute(2, 1, 0).unbind(0)
    x1, x2, y2, y3 = width - x1, width - x2, height - y2, height - y3
    x_sum, y_sum = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    across = (x1 - x2) * (y3 - y2) - (y1 - y2) * (x3 - x2)
    g = (x_sum * (y3 - y2) - y_sum * (x3 - x2)) / across
    h = ((x1 - x2) * y_sum - (y1 - y2) * x_sum) / across
    first = [x1 - x0 + g * x1, x3 - x0 + h * x3, x0]
    second = [y1 - y0 + g * y1, y3 - y0 + h * y3, y0]
    square = _matrix([*first, *second, g, h, torch.ones_like(g)])
    return square / torch.stack([width, height, torch.ones_like(width)], 1).unsqueeze(1)


def resample(images: Tensor, matrices: Tensor, heights: Tensor) -> Tensor:
    """Warp images by their homographies, with one bilinear interpolation.

    Pages keep their place and size; uncovered parts are 0. The result is bit-identical for any
    padding of the images: source positions are whole multiples of 2^-12 pixels, and the
    coordinates of `grid_sample`, [-1, 1], represent those exactly if the side is a power of two.

    Args:
        images: float32 (B, 1, H, W), 0 below the heights.
        matrices: float64 (B, 3, 3), from before to after.
        heights: Long (B,), rows of each page.
    """
    height, width = images.shape[2:]
    sides = [1 << (side - 1).bit_length() for side in (width, height)]
    backward = _inverse(matrices, _page_sizes(heights, width) / 2).float()
    columns = torch.arange(width, device=images.device) + 0.5
    rows = torch.arange(height, device=images.device).unsqueeze(1) + 0.5
    x, y, constant = backward.view(-1, 3, 3, 1, 1).unbind(2)
    depth = (x[:, 2:] * columns + (y[:, 2:] * rows + constant[:, 2:])).clamp_min_(_MIN_DEPTH)
    x, y, constant = (part[:, :2] / _STEP for part in (x, y, constant))
    # In place, x and y as separate planes: interleaved, these passes take ten times as long.
    grid = (x * columns + (y * rows + constant)).div_(depth).round_()
    for plane, side in zip(grid.unbind(1), sides, strict=True):
        plane.mul_(2 * _STEP / side).sub_(1)
    padded = F.pad(images, (0, sides[0] - width, 0, sides[1] - height))
    warped = F.grid_sample(
        padded, grid.permute(0, 2, 3, 1), padding_mode="zeros", align_corners=False
    )
    return warped.mul_(page_mask(heights, height))


def page_mask(heights: Tensor, height: int) -> Tensor:
    """Return 1.0 for the rows of each page, 0.0 for padding: float32 (B, 1, height, 1)."""
    rows = torch.arange(height, device=heights.device)
    return (rows < heights.unsqueeze(1)).float().view(-1, 1, height, 1)


def _page_sizes(heights: Tensor, width: int) -> Tensor:
    """Return width and height of each page, float64 (B, 2)."""
    return torch.stack([torch.full_like(heights, width), heights], 1).double()


def _matrix(entries: list[Tensor]) -> Tensor:
    return torch.stack(entries, 1).view(-1, 3, 3)


def _scale_and_shift(factor: Tensor, shift: Tensor) -> Tensor:
    (a, e), (c, f) = factor.unbind(1), shift.unbind(1)
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return _matrix([a, zero, c, zero, e, f, zero, zero, one])


def _inverse(matrices: Tensor, centre: Tensor) -> Tensor:
    """Invert homographies, scaled to depth 1 at `centre` (B, 2), where the depth is never 0.

    By cofactors: `torch.linalg.inv` synchronises with the GPU to check for singular matrices.
    """
    a, b, c = matrices.unbind(2)
    cofactors = torch.stack([torch.linalg.cross(*pair) for pair in ((b, c), (c, a), (a, b))], 1)
    point = torch.cat([centre, torch.ones_like(centre[:, :1])], 1)
    depth = (cofactors[:, 2] * point).sum(1)
    return cofactors / depth.view(-1, 1, 1)
