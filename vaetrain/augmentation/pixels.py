"""Edits of an image's values: brightness and contrast, and the corruption of the model's input."""

import math

import torch
from torch import Tensor

from shards.randomness import pixel_bits
from vaetrain.augmentation.strengths import Drawn
from vaetrain.augmentation.warp import is_page

_SMALLEST_ERASED = 0.02  # share of the page
_LONGEST_ERASED = 3.3  # ratio of the sides


def adjust_tone(images: Tensor, drawn: dict[str, Drawn], heights: Tensor) -> Tensor:
    """`brightness`, then `contrast` and `tone` about each page's mean, all clipped to [0, 1].

    Args:
        images: float32 (B, 1, H, W), 0 below the heights.
        heights: Long (B,), rows of each page.
    """
    brightness = _factor(drawn, ("brightness",), images)
    contrast = _factor(drawn, ("contrast", "tone"), images)
    images = (images * brightness).clamp_(0, 1)
    grey = (1 - contrast) * page_means(images, heights).view(-1, 1, 1, 1)
    return images.mul_(contrast).add_(grey).clamp_(0, 1).mul_(is_page(heights, images.shape[2]))


def _factor(drawn: dict[str, Drawn], names: tuple[str, ...], images: Tensor) -> Tensor:
    factor = images.new_ones((len(images), 1))
    for name in names:
        if name in drawn:
            factor = factor * (1 + drawn[name].signed(1))
    return factor.view(-1, 1, 1, 1)


def page_means(images: Tensor, heights: Tensor) -> Tensor:
    """The mean of each page's pixels, float32 (B,).

    Of values rounded so that their sums are exact: the same in whatever order and padding a device
    adds them up. For images 256 pixels wide that is to 2^-17.
    """
    width = images.shape[3]
    exact = 1 << 24 - (width - 1).bit_length()
    rows = (images * exact).round_().sum(3)
    total = rows.long().sum((1, 2))
    return (total / (heights * (width * exact)).double()).float()


def corrupt(
    images: Tensor, drawn: dict[str, Drawn], for_noise: Tensor, for_salt: Tensor, heights: Tensor
) -> Tensor:
    """A copy of the images with `noise`, `salt_pepper` and `erase`, clipped to [0, 1].

    Args:
        images: float32 (B, 1, H, W), 0 below the heights.
        drawn: the operations' draws.
        for_noise, for_salt: Long (B,), one key a page for each.
        heights: Long (B,), rows of each page.
    """
    height, width = images.shape[2:]
    images = images.clone()
    if "noise" in drawn:
        noise = _normal(pixel_bits(for_noise, height, width)).unsqueeze_(1)
        images.add_(noise.mul_(_wide(drawn["noise"].strength))).clamp_(0, 1)
    if "salt_pepper" in drawn:
        bits = pixel_bits(for_salt, height, width).unsqueeze(1).float()
        add_salt_and_pepper_(images, bits, drawn["salt_pepper"].strength)
    if "erase" in drawn:
        erase_(images, *erased_rectangles(drawn["erase"], heights, width))
    return images.mul_(is_page(heights, height))


def _normal(bits: Tensor) -> Tensor:
    """Normal draws from sixteen bits each, by the inverse distribution: none beyond 4.2 sigma."""
    return bits.float().add_(0.5).mul_(2.0**-15).erfinv_().mul_(math.sqrt(2.0))


def add_salt_and_pepper_(images: Tensor, bits: Tensor, share: Tensor) -> Tensor:
    """`share` (B,) of the pixels set to 0 or 1 in place, as many of the one as of the other.

    By minimum and maximum, not by masks: a fifth of the time on a CPU.

    Args:
        images: (B, 1, H, W).
        bits: whole numbers in [-2^15, 2^15), uniform, float of the same shape.
    """
    edge = 2.0**15 - (_wide(share) * 2.0**15).round()
    torch.minimum(images, (bits + (1 + edge)).clamp_(0, 1), out=images)
    return torch.maximum(images, (bits + (1 - edge)).clamp_(0, 1), out=images)


def erased_rectangles(erase: Drawn, heights: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Rectangles drawn as by Zhong et al. 2017, "Random erasing data augmentation".

    Where the sides drawn are longer than the page's they are cut to these.

    Returns: upper left corners and sides in whole pixels, Long (B, 2) x, y each; no area where the
    strength is 0.
    """
    page = torch.stack([torch.full_like(heights, width), heights], 1).float()
    least = erase.strength.clamp_max(_SMALLEST_ERASED)
    share = least + (erase.strength - least) * erase.u[:, 0]
    area = share * page[:, 0] * page[:, 1]
    ratio = ((2 * erase.u[:, 1] - 1) * math.log(_LONGEST_ERASED)).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1)
    sides = sides.round().minimum(page)
    corners = (erase.u[:, 2:4] * (page - sides + 1)).floor()
    return corners.long(), sides.long()


def erase_(images: Tensor, corners: Tensor, sides: Tensor) -> Tensor:
    """A rectangle of each image set to 0, in place; corners and sides as `erased_rectangles`."""
    inside = []
    for axis, length in ((0, images.shape[3]), (1, images.shape[2])):
        place = torch.arange(length, device=images.device)
        first, count = corners[:, axis : axis + 1], sides[:, axis : axis + 1]
        inside.append(((place >= first) & (place < first + count)).float())
    columns, rows = inside
    return images.mul_(1 - rows[:, None, :, None] * columns[:, None, None, :])


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
