"""The same augmentation by three libraries: geometry and tone, then a corrupted copy as the input.

Each function returns an `augment(images, heights)` from float32 (B, 1, H, W) in [0, 1], 0 below
the heights (B,), to (corrupted, clean). kornia has no heights and augments the padding, too. Each
function imports its library itself, so that an ImportError means that a peer is not installed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shards.reading.batch import Batch
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import OpSettings, Policy

AugmentImages = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

POLICY = Policy(
    {
        "flip": OpSettings(0.5, 1.0),
        "translate": OpSettings(1.0, 0.05),
        "scale": OpSettings(1.0, 0.1),
        "rotate": OpSettings(1.0, 5.0),
        "perspective": OpSettings(0.3, 0.2),
        "brightness": OpSettings(1.0, 0.1),
        "contrast": OpSettings(1.0, 0.1),
        "noise": OpSettings(0.5, 0.02),
        "salt_pepper": OpSettings(1.0, 0.04),
        "erase": OpSettings(0.35, 0.33),
    }
)
"""The operations of the default policy that work on images, with strengths that kornia supports."""


def ours(seed: int) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """Return this project's augmentation of a batch of boxes or pixels."""
    augment = Augment(POLICY)
    return lambda batch: augment(batch, seed)


def kornia_batches(seed: int) -> AugmentImages:
    """Return kornia's `AugmentationSequential`, eager, with parameters for each page."""
    import kornia.augmentation as k

    torch.manual_seed(seed)
    clean = k.AugmentationSequential(
        k.RandomHorizontalFlip(p=0.5),
        k.RandomAffine(degrees=5.0, translate=(0.05, 0.05), scale=(0.9, 1.1), p=1.0),
        k.RandomPerspective(distortion_scale=0.2, p=0.3),
        k.RandomBrightness(brightness=(0.9, 1.1), p=1.0),
        k.RandomContrast(contrast=(0.9, 1.1), p=1.0),
        data_keys=["input"],
    )
    corrupt = k.AugmentationSequential(
        k.RandomGaussianNoise(std=0.02, p=0.5),
        k.RandomSaltAndPepperNoise(amount=(0.04, 0.04), salt_vs_pepper=(0.5, 0.5), p=1.0),
        k.RandomErasing(scale=(0.02, 0.33), p=0.35),
        data_keys=["input"],
    )

    def augment(images: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
        target = clean(images)
        return corrupt(target), target

    return augment


def torchvision_page() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return torchvision's v2 transforms of an unpadded page (1, H, W): (corrupted, clean)."""
    from torchvision.transforms import InterpolationMode, v2

    bilinear = InterpolationMode.BILINEAR
    clean = v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomAffine(5.0, (0.05, 0.05), (0.9, 1.1), interpolation=bilinear),
            v2.RandomPerspective(0.2, 0.3),
            v2.ColorJitter(brightness=0.1, contrast=0.1),
        ]
    )
    corrupt = v2.Compose(
        [
            v2.RandomApply([v2.GaussianNoise(sigma=0.02)], 0.5),
            v2.Lambda(_salt_and_pepper),
            v2.RandomErasing(0.35, (0.02, 0.33)),
        ]
    )

    def augment(page: Tensor) -> tuple[Tensor, Tensor]:
        target = clean(page)
        return corrupt(target), target

    return augment


def torchvision_pages(seed: int) -> AugmentImages:
    """Return torchvision's v2 transforms, applied page by page without padding."""
    augment_page = torchvision_page()
    torch.manual_seed(seed)

    def augment(images: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
        targets, inputs = torch.zeros_like(images), torch.zeros_like(images)
        for number, height in enumerate(heights.tolist()):
            pair = augment_page(images[number, :, :height])
            inputs[number, :, :height], targets[number, :, :height] = pair
        return inputs, targets

    return augment


def _salt_and_pepper(image: Tensor) -> Tensor:
    # torchvision has no such transform.
    u = torch.rand_like(image)
    return image.masked_fill(u < 0.02, 0.0).masked_fill_(u > 0.98, 1.0)


PEERS = {
    "kornia AugmentationSequential": kornia_batches,
    "torchvision v2, page by page": torchvision_pages,
}
"""Peers by their names in records."""
