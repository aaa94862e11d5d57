"""A batch of pages in; what the model is shown and what it is to reproduce out."""

import torch
from torch import Tensor

from shards.randomness import random_bits, sample_keys
from shards.reading.batch import Batch
from shards.reading.draw import draw, place
from vaetrain.augmentation.added import add_boxes
from vaetrain.augmentation.boxes import clip_to_page, disturb, transform
from vaetrain.augmentation.pixels import adjust_tone, corrupt
from vaetrain.augmentation.policy import ADDED, Policy
from vaetrain.augmentation.strengths import Drawn, draw_strengths
from vaetrain.augmentation.warp import free, resample, upright

_DISTURBING = ("jitter", "dropout")
_UPRIGHT = ("flip", "translate", "scale", "crop")
_FREE = ("rotate", "perspective")
_TONE = ("brightness", "contrast", "tone")
_CORRUPTION = ("noise", "salt_pepper", "erase")


class Augment:
    """A policy, applied to batches on whatever device they are.

    Every draw is a function of seed, epoch, sample id and position alone, and nothing is read by
    the host. Pages keep their canvas: nothing outside it enters, and what a transformation uncovers
    is 0.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @torch.no_grad()
    def __call__(self, batch: Batch, seed: int) -> tuple[Tensor, Tensor]:
        """The model's inputs and targets, float32 (B, 1, H, W) in [0, 1], 0 below the heights.

        They are one tensor where the policy corrupts nothing. Pages that are images, not boxes,
        know no `jitter` and `dropout`; all else acts on both alike.
        """
        keys = sample_keys(seed, batch.epochs, batch.ids, "augment").unsqueeze(1)
        for_policy, for_boxes, for_added, for_noise, for_salt = random_bits(
            keys, torch.arange(5, device=keys.device)
        ).unbind(1)
        drawn = draw_strengths(self.policy, for_policy)
        if batch.pixels is None:
            targets = _from_boxes(batch, drawn, for_boxes, for_added)
        else:
            targets = _from_pixels(batch, drawn, for_added)
        if _any(_TONE, drawn):
            targets = adjust_tone(targets, drawn, batch.heights)
        if not _any(_CORRUPTION, drawn):
            return targets, targets
        return corrupt(targets, drawn, for_noise, for_salt, batch.heights), targets


def _from_boxes(
    batch: Batch, drawn: dict[str, Drawn], for_boxes: Tensor, for_added: Tensor
) -> Tensor:
    owner, heights, width = batch.owner, batch.heights, batch.size[1]
    boxes = place(batch.boxes, owner, batch.canvas, batch.tops, width)
    boxes = clip_to_page(boxes, owner, heights, width)
    if _any(_DISTURBING, drawn):
        boxes = disturb(boxes, owner, width, drawn, for_boxes)
    if _any(ADDED, drawn):
        added, added_owner = add_boxes(heights, width, drawn, for_added)
        boxes, owner = torch.cat([boxes, added]), torch.cat([owner, added_owner])
    boxes = transform(boxes, owner, upright(drawn, heights, width))
    images = draw(boxes, owner, heights, batch.size)
    if _any(_FREE, drawn):
        images = resample(images, free(drawn, heights, width), heights)
    return images


def _from_pixels(batch: Batch, drawn: dict[str, Drawn], for_added: Tensor) -> Tensor:
    heights, width = batch.heights, batch.size[1]
    images = batch.images()
    if _any(ADDED, drawn):
        added = draw(*add_boxes(heights, width, drawn, for_added), heights, batch.size)
        images = images.add_(added).clamp_max_(1.0)
    if _any(_UPRIGHT + _FREE, drawn):
        matrices = free(drawn, heights, width) @ upright(drawn, heights, width)
        images = resample(images, matrices, heights)
    return images


def _any(names: tuple[str, ...], drawn: dict[str, Drawn]) -> bool:
    return any(name in drawn for name in names)
