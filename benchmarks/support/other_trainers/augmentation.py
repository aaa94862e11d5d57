"""The same augmentation by three libraries: geometry and tone, then a spoiled copy as the input.

Each is a function that makes an `augment(images, heights)`: images float32 (B, 1, H, W) in [0, 1],
0 below the heights (B,), to (spoiled, clean). kornia knows no heights: it augments the padding too.
Each imports what it needs itself, so that an ImportError says that a peer isn't installed.
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
"""What all of them do: our default policy's operations on images, as kornia can say them."""


def ours(seed: int) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """Our augmentation of a batch, of boxes or of pixels."""
    augment = Augment(POLICY)
    return lambda batch: augment(batch, seed)


def kornia_batches(seed: int) -> AugmentImages:
    """kornia's `AugmentationSequential`, eager, each page with parameters of its own."""
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
    spoil = k.AugmentationSequential(
        k.RandomGaussianNoise(std=0.02, p=0.5),
        k.RandomSaltAndPepperNoise(amount=(0.04, 0.04), salt_vs_pepper=(0.5, 0.5), p=1.0),
        k.RandomErasing(scale=(0.02, 0.33), p=0.35),
        data_keys=["input"],
    )

    def augment(images: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
        target = clean(images)
        return spoil(target), target

    return augment


def torchvision_page() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """torchvision's v2 transforms for a page (1, H, W) without padding: (spoiled, clean)."""
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
    spoil = v2.Compose(
        [
            v2.RandomApply([v2.GaussianNoise(sigma=0.02)], 0.5),
            v2.Lambda(_salt_and_pepper),
            v2.RandomErasing(0.35, (0.02, 0.33)),
        ]
    )

    def augment(page: Tensor) -> tuple[Tensor, Tensor]:
        target = clean(page)
        return spoil(target), target

    return augment


def torchvision_pages(seed: int) -> AugmentImages:
    """torchvision's v2 transforms page by page, each without its padding."""
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
    # torchvision has none.
    u = torch.rand_like(image)
    return image.masked_fill(u < 0.02, 0.0).masked_fill_(u > 0.98, 1.0)


PEERS = {
    "kornia AugmentationSequential": kornia_batches,
    "torchvision v2, page by page": torchvision_pages,
}
"""Peers by the name they are reported under."""
