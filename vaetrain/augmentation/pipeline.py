"""Augmentation of a batch: from pages to the model's inputs and reconstruction targets."""

from __future__ import annotations

import torch
from torch import Tensor

from shards.randomness import random_bits, sample_keys
from shards.reading.batch import Batch
from shards.reading.draw import draw, place
from vaetrain.augmentation.added_boxes import add_boxes
from vaetrain.augmentation.boxes import clip_to_page, edit_boxes, transform
from vaetrain.augmentation.operations import OPS, Kind, ops_of_kind
from vaetrain.augmentation.parameters import Parameters, applied_ops, sample_parameters
from vaetrain.augmentation.pixels import adjust_tone, corrupt
from vaetrain.augmentation.policy import Policy
from vaetrain.augmentation.warp import homographies, resample

# Streams of random draws of a page. Each corruption has one of its own after the first three.
_POLICY, _BOX_EDITS, _ADDED_BOXES, _CORRUPTIONS = range(4)


class Augment:
    """Policy that is applied to batches, on the device that holds them.

    Every random draw is a function of seed, epoch, sample id and position alone, and the host never
    reads a tensor. Pages keep their canvas: nothing enters from outside it, and uncovered parts
    are 0.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @torch.no_grad()
    def __call__(self, batch: Batch, seed: int) -> tuple[Tensor, Tensor]:
        """Return the model's inputs and targets, float32 (B, 1, H, W) in [0, 1].

        Both are 0 below the heights, and they are one tensor if the policy corrupts nothing. Pages
        stored as pictures have no boxes to edit, so `jitter` and `dropout` leave them unchanged;
        all other operations treat boxes and pictures alike.
        """
        if not any(map(self.policy.uses, OPS)):
            images = batch.images()  # no draws: they were a tenth of a forward pass's operations
            return images, images
        keys = sample_keys(seed, batch.epochs, batch.ids, "augment").unsqueeze(1)
        streams = _CORRUPTIONS + len(ops_of_kind(Kind.CORRUPTION))
        keys = random_bits(keys, torch.arange(streams, device=keys.device))
        parameters = sample_parameters(self.policy, keys[:, _POLICY])
        render = _render_boxes if batch.pixels is None else _render_pictures
        targets = render(batch, parameters, keys)
        if _has((Kind.BRIGHTNESS, Kind.CONTRAST), parameters):
            targets = adjust_tone(targets, parameters, batch.heights)
        if not _has((Kind.CORRUPTION,), parameters):
            return targets, targets
        return corrupt(targets, parameters, keys[:, _CORRUPTIONS:], batch.heights), targets


def _render_boxes(batch: Batch, parameters: Parameters, keys: Tensor) -> Tensor:
    """Edit, add and transform boxes exactly, draw them, and resample for projective warps."""
    owner, heights, width = batch.owner, batch.heights, batch.size[1]
    boxes = place(batch.boxes, owner, batch.canvas, batch.tops, width)
    boxes = clip_to_page(boxes, owner, heights, width)
    if _has((Kind.BOX_EDIT,), parameters):
        boxes = edit_boxes(boxes, owner, width, parameters, keys[:, _BOX_EDITS])
    if _has((Kind.ADDED_BOXES,), parameters):
        added, added_owner = add_boxes(heights, width, parameters, keys[:, _ADDED_BOXES])
        boxes, owner = torch.cat([boxes, added]), torch.cat([owner, added_owner])
    matrices = homographies(Kind.AXIS_ALIGNED, parameters, heights, width)
    images = draw(transform(boxes, owner, matrices), owner, heights, batch.size)
    if _has((Kind.PROJECTIVE,), parameters):
        matrices = homographies(Kind.PROJECTIVE, parameters, heights, width)
        images = resample(images, matrices, heights)
    return images


def _render_pictures(batch: Batch, parameters: Parameters, keys: Tensor) -> Tensor:
    """Draw added boxes onto the pictures, and resample once for all warps."""
    heights, width = batch.heights, batch.size[1]
    images = batch.images()
    if _has((Kind.ADDED_BOXES,), parameters):
        boxes, owner = add_boxes(heights, width, parameters, keys[:, _ADDED_BOXES])
        images = images.add_(draw(boxes, owner, heights, batch.size)).clamp_max_(1.0)
    if _has((Kind.AXIS_ALIGNED, Kind.PROJECTIVE), parameters):
        projective = homographies(Kind.PROJECTIVE, parameters, heights, width)
        axis_aligned = homographies(Kind.AXIS_ALIGNED, parameters, heights, width)
        images = resample(images, projective @ axis_aligned, heights)
    return images


def _has(kinds: tuple[Kind, ...], parameters: Parameters) -> bool:
    return any(applied_ops(kind, parameters) for kind in kinds)
