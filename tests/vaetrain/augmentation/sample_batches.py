"""Small batches, pictures and draws that the tests of augmentation share."""

import dataclasses

import numpy as np
import torch

from shards.reading.batch import Batch
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import Chance, Policy, load_policy
from vaetrain.augmentation.strengths import Drawn

WIDTH, ROWS = 64, 96
HEIGHTS = [96, 40, 77, 64, 96, 13]
BOXES = 13  # of each page


def a_batch(heights=HEIGHTS, rows=ROWS, epoch=0) -> Batch:
    """Pages of a few random boxes each, the first box being the page."""
    boxes, owner = [], []
    for number, height in enumerate(heights):
        draw = np.random.default_rng(number)
        corners = draw.uniform(0, [WIDTH - 8, height - 8], (BOXES - 1, 2)).clip(0)
        sides = draw.uniform(2, 30, (BOXES - 1, 2))
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
    """Some pages of a batch, in this order, padded to other rows."""
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
    """The same pages as pixels, as shards without boxes hold them."""
    pixels = (batch.images() * 255).round().to(torch.uint8)
    return dataclasses.replace(batch, boxes=None, owner=None, pixels=pixels)


KINDS = {"boxes": lambda batch: batch, "pictures": as_pictures}


def only(name: str, magnitude: float, probability: float = 1.0) -> Augment:
    """One operation alone."""
    return Augment(Policy({name: Chance(probability, magnitude)}))


def named(name: str) -> Augment:
    """A policy by its name."""
    return Augment(load_policy(AugmentConfig(policy=name)))


def drawn(strength: float, u: list[float], pages: int = 1) -> Drawn:
    """An operation's draws, made by hand."""
    spare = torch.tensor([u + [0.0] * (8 - len(u))] * pages)
    return Drawn(torch.full((pages,), strength), spare)


def a_picture(height: int = 48) -> torch.Tensor:
    """White noise, (1, 1, height, WIDTH): neighbouring pixels differ as much as they can."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 1, height, WIDTH, generator=generator)
