"""Micro batch of pages, on the host or the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shards.reading.draw import draw, place


@dataclass
class Batch:
    """One micro batch of pages, on the host or the device.

    Attributes:
        ids: Long (B,), sample ids.
        epochs: Long (B,), the epoch of each sample, from which its random numbers are derived.
        heights: Long (B,), rows of each page in the image; rows below are padding.
        size: (H, W) of the image, pixels.
        tops: Long (B,), the row of the scaled page that the image starts at.
        canvas: float32 (B, 2), width and height of each page, canvas pixels.
        boxes: float32 (T, 4), corners x0, y0, x1, y1 of all boxes, canvas pixels; None: `pixels`.
        owner: Long (T,), the page of each box, 0 to B - 1.
        pixels: uint8 (B, 1, H, W), for shards that hold only images.
        other: the same pages at their other widths, where they have one; None: not read.
    """

    ids: Tensor
    epochs: Tensor
    heights: Tensor
    size: tuple[int, int]
    tops: Tensor
    canvas: Tensor
    boxes: Tensor | None = None
    owner: Tensor | None = None
    pixels: Tensor | None = None
    other: Batch | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked host memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`; copies from page-locked memory are asynchronous."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def images(self) -> Tensor:
        """Return the pages drawn as float32 (B, 1, H, W) in [0, 1], on the batch's device."""
        if self.pixels is not None:
            return self.pixels.float().div_(255.0)
        placed = place(self.boxes, self.owner, self.canvas, self.tops, self.size[1])
        return draw(placed, self.owner, self.heights, self.size)

    def __getstate__(self) -> dict[str, Any]:
        # Batches are sent between processes: tensors as files of shared memory, arrays as bytes.
        return {k: v.numpy() if isinstance(v, Tensor) else v for k, v in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            setattr(self, name, tensor)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved = {k: change(v) if isinstance(v, Tensor) else v for k, v in fields.items()}
        if self.other is not None:
            moved["other"] = self.other._map(change)
        return Batch(**moved)
