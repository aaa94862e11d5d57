"""Edits of an image's values: brightness and contrast, and the corruption of the model's input."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shards.randomness import pixel_bits
from vaetrain.augmentation.operations import Kind
from vaetrain.augmentation.parameters import OpParameters, Parameters, applied_ops
from vaetrain.augmentation.warp import page_mask

_MIN_ERASED = 0.02  # share of the page
_MAX_ASPECT = 3.3  # ratio of an erased rectangle's sides


def adjust_tone(images: Tensor, parameters: Parameters, heights: Tensor) -> Tensor:
    """Multiply brightness, then contrast about each page's mean; clip both to [0, 1].

    Operations of one kind multiply their factors.

    Args:
        images: float32 (B, 1, H, W), 0 below the heights.
        heights: Long (B,), rows of each page.
    """
    brightness = _product(Kind.BRIGHTNESS, parameters, images)
    contrast = _product(Kind.CONTRAST, parameters, images)
    images = (images * brightness).clamp_(0, 1)
    grey = (1 - contrast) * _per_image(page_means(images, heights))
    return images.mul_(contrast).add_(grey).clamp_(0, 1).mul_(page_mask(heights, images.shape[2]))


def random_factor(params: OpParameters) -> Tensor:
    """Return a factor within `strength` of 1 for each page: (B,)."""
    return 1 + params.signed(1)[:, 0]


def page_means(images: Tensor, heights: Tensor) -> Tensor:
    """Compute the mean of each page's pixels, float32 (B,).

    Values are rounded so that their sums are exact, which makes the mean the same for any order of
    summation and any padding. For images 256 pixels wide they are rounded to 2^-17.
    """
    width = images.shape[3]
    exact = 1 << 24 - (width - 1).bit_length()
    rows = (images * exact).round_().sum(3)
    total = rows.long().sum((1, 2))
    return (total / (heights * (width * exact)).double()).float()


def corrupt(images: Tensor, parameters: Parameters, keys: Tensor, heights: Tensor) -> Tensor:
    """Apply the corruptions to a copy of the images.

    Args:
        images: float32 (B, 1, H, W), 0 below the heights.
        keys: Long (B, K), one key a page for each of the K operations of this kind, by slot.
        heights: Long (B,), rows of each page.
    """
    images = images.clone()
    for op, apply, params in applied_ops(Kind.CORRUPTION, parameters):
        images = apply(images, params, keys[:, op.place_in_kind], heights)
    return images.mul_(page_mask(heights, images.shape[2]))


def noise(images: Tensor, params: OpParameters, keys: Tensor, heights: Tensor) -> Tensor:
    """Add Gaussian noise in place and clip to [0, 1]."""
    draws = _normal(pixel_bits(keys, *images.shape[2:])).unsqueeze_(1)
    return images.add_(draws.mul_(_per_image(params.strength))).clamp_(0, 1)


def salt_pepper(images: Tensor, params: OpParameters, keys: Tensor, heights: Tensor) -> Tensor:
    """Set pixels to 0 or 1 in place."""
    bits = pixel_bits(keys, *images.shape[2:]).unsqueeze(1).float()
    return add_salt_and_pepper_(images, bits, params.strength)


def erase(images: Tensor, params: OpParameters, keys: Tensor, heights: Tensor) -> Tensor:
    """Set a random rectangle of each page to 0 in place."""
    return erase_(images, *erased_rectangles(params, heights, images.shape[3]))


def add_salt_and_pepper_(images: Tensor, bits: Tensor, share: Tensor) -> Tensor:
    """Set `share` (B,) of the pixels in place, half of them to 0 and half to 1.

    By minimum and maximum instead of masks: a fifth of the time on a CPU.

    Args:
        images: (B, 1, H, W).
        bits: whole numbers in [-2^15, 2^15), uniform, float of the same shape.
    """
    edge = 2.0**15 - (_per_image(share) * 2.0**15).round()
    torch.minimum(images, (bits + (1 + edge)).clamp_(0, 1), out=images)
    return torch.maximum(images, (bits + (1 - edge)).clamp_(0, 1), out=images)


def erased_rectangles(params: OpParameters, heights: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Draw rectangles as Zhong et al. 2017, "Random erasing data augmentation".

    Sides that are longer than the page's are cut to the page's.

    Returns: upper left corners and sides in whole pixels, Long (B, 2) x, y each; no area where the
    strength is 0.
    """
    u = params.uniforms
    page = torch.stack([torch.full_like(heights, width), heights], 1).float()
    smallest = params.strength.clamp_max(_MIN_ERASED)
    share = smallest + (params.strength - smallest) * u[:, 0]
    area = share * page[:, 0] * page[:, 1]
    ratio = ((2 * u[:, 1] - 1) * math.log(_MAX_ASPECT)).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1)
    sides = sides.round().minimum(page)
    corners = (u[:, 2:4] * (page - sides + 1)).floor()
    return corners.long(), sides.long()


def erase_(images: Tensor, corners: Tensor, sides: Tensor) -> Tensor:
    """Set a rectangle of each image to 0 in place; arguments as from `erased_rectangles`."""
    inside = []
    for axis, length in ((0, images.shape[3]), (1, images.shape[2])):
        place = torch.arange(length, device=images.device)
        first, count = corners[:, axis : axis + 1], sides[:, axis : axis + 1]
        inside.append(((place >= first) & (place < first + count)).float())
    columns, rows = inside
    return images.mul_(1 - rows[:, None, :, None] * columns[:, None, None, :])


def _product(kind: Kind, parameters: Parameters, images: Tensor) -> Tensor:
    factor = images.new_ones(len(images))
    for _, factor_of, params in applied_ops(kind, parameters):
        factor = factor * factor_of(params)
    return _per_image(factor)


def _normal(bits: Tensor) -> Tensor:
    """Turn 16 random bits each into normal draws by the inverse CDF; the largest is 4.2 sigma."""
    return bits.float().add_(0.5).mul_(2.0**-15).erfinv_().mul_(math.sqrt(2.0))


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
