"""Small batches, pictures and parameters that the tests of augmentation share."""

import dataclasses

import numpy as np
import torch

from shards.reading.batch import Batch
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.parameters import UNIFORMS, OpParameters
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import OpSettings, Policy, load_policy

WIDTH, ROWS = 64, 96
HEIGHTS = [96, 40, 77, 64, 96, 13]
BOXES = 13  # on each page


def a_batch(heights=HEIGHTS, rows=ROWS, epoch=0) -> Batch:
    """Return pages of a few random boxes each; the first box is the page itself."""
    boxes, owner = [], []
    for number, height in enumerate(heights):
        rng = np.random.default_rng(number)
        corners = rng.uniform(0, [WIDTH - 8, height - 8], (BOXES - 1, 2)).clip(0)
        sides = rng.uniform(2, 30, (BOXES - 1, 2))
        inner = np.concatenate([corners, (corners + sides).clip(0, [WIDTH, height])], 1)
        boxes.append(np.concatenate([[[0, 0, WIDTH, height]], inner]))
        owner += [number] * BOXES
    count = len(heights)
    return Batch(
        ids=torch.arange(count) + 100,
        epochs=torch.full((count,), epoch),
        heights=torch.tensor(heights),
        size=(rows, WIDTH),
        tops=torch.zeros(count, dtype=torch.long),
        canvas=torch.tensor([[WIDTH, height] for height in heights], dtype=torch.float32),
        boxes=torch.from_numpy(np.concatenate(boxes)).float(),
        owner=torch.tensor(owner),
    )


def part_of(batch: Batch, places: list[int], rows: int) -> Batch:
    """Return some pages of a batch, in this order, padded to `rows`."""
    return Batch(
        ids=batch.ids[places],
        epochs=batch.epochs[places],
        heights=batch.heights[places],
        size=(rows, WIDTH),
        tops=batch.tops[places],
        canvas=batch.canvas[places],
        boxes=batch.boxes.view(-1, BOXES, 4)[places].flatten(0, 1),
        owner=torch.arange(len(places)).repeat_interleave(BOXES),
    )


def as_pictures(batch: Batch) -> Batch:
    """Return the same pages as pixels, as shards without boxes store them."""
    pixels = (batch.images() * 255).round().to(torch.uint8)
    return dataclasses.replace(batch, boxes=None, owner=None, pixels=pixels)


STORED = {"boxes": lambda batch: batch, "pictures": as_pictures}


def only(name: str, magnitude: float, probability: float = 1.0) -> Augment:
    """Return an augmentation by one operation."""
    return Augment(Policy({name: OpSettings(probability, magnitude)}))


def named(name: str) -> Augment:
    """Return the augmentation of a policy by its name."""
    return Augment(load_policy(AugmentConfig(policy=name)))


def fixed_params(strength: float, uniforms: list[float], pages: int = 1) -> OpParameters:
    """Return parameters of an operation with the uniforms given, the others 0."""
    uniforms = torch.tensor([uniforms + [0.0] * (UNIFORMS - len(uniforms))] * pages)
    return OpParameters(torch.full((pages,), strength), uniforms)


def a_picture(height: int = 48) -> torch.Tensor:
    """Return white noise, (1, 1, height, WIDTH): the hardest picture to interpolate."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 1, height, WIDTH, generator=generator)
