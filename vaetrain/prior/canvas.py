"""Pixels of pages as the network of `detail.py` sees them: those above a pixel and left of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 6  # grey values of one level of nesting; about those of an 8-bit picture
VALUES = 20 * STEPS + 1  # deeper pixels are clipped; of real pages these are 0.06%
ABOVE, SIDE = (
    6,
    8,
)  # rows above a pixel, and columns on either side, that its distribution depends on
MARKS = 4  # value, equal to the left pixel, equal to the upper pixel, inside of the page's columns
WINDOW = (ABOVE * (2 * SIDE + 1) + SIDE) * MARKS
NEIGHBOURS = ((-1, 0), (0, -1), (-1, -1), (-1, 1))  # above, left, above left, above right
RUNS = 2 * len(NEIGHBOURS)


def to_values(images: Tensor) -> Tensor:
    """Round images (B, 1, H, W) in [0, 1] to grey values, Long (B, H, W) in [0, VALUES - 1]."""
    return (images[:, 0] * (40 * STEPS)).round().long().clamp(0, VALUES - 1)


class Canvas:
    """Grey values of pages with margins, and for every pixel since when its value is the same.

    A pixel is addressed by its *place*, its position in the flat tensors.
    """

    def __init__(self, pages: int, rows: int, width: int, device: torch.device) -> None:
        self.rows, self.width = ABOVE + rows, width + 2 * SIDE
        self.marks = torch.zeros(pages * self.rows * self.width, MARKS, device=device)
        # Pixels of the same value directly to the left, and directly above.
        self.runs = torch.zeros(len(self.marks), 2, device=device)
        window = [(y, x) for y in range(-ABOVE, 0) for x in range(-SIDE, SIDE + 1)]
        window += [(0, x) for x in range(-SIDE, 0)]
        self._window = self._offsets(window, device)
        self._neighbours = self._offsets(NEIGHBOURS, device)

    def _offsets(self, pixels: list | tuple, device: torch.device) -> Tensor:
        return torch.tensor([y * self.width + x for y, x in pixels], device=device)

    @classmethod
    def of(cls, values: Tensor) -> Canvas:
        """Return the canvas of whole pages, Long (B, H, W)."""
        pages, rows, width = values.shape
        canvas = cls(pages, rows, width, values.device)
        is_left = F.pad(values[:, :, 1:] == values[:, :, :-1], (1, 0))
        is_above = F.pad(values[:, 1:] == values[:, :-1], (0, 0, 1, 0))
        marks = [values / (10 * STEPS), is_left, is_above, torch.ones_like(values)]
        runs = [_run_lengths(is_left, 2), _run_lengths(is_above, 1)]
        for flat, planes in ((canvas.marks, marks), (canvas.runs, runs)):
            whole = flat.view(pages, canvas.rows, canvas.width, -1)
            whole[:, ABOVE:, SIDE:-SIDE] = torch.stack([plane.float() for plane in planes], -1)
        return canvas

    def places(self, page: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Return the places of pixels, Long (N,)."""
        return (page * self.rows + ABOVE + row) * self.width + SIDE + column

    def around(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is drawn around pixels.

        Returns: the marks of the window, (N, WINDOW); the values of `NEIGHBOURS`, Long (N, 4); and
            their runs, on a logarithmic scale, (N, RUNS).
        """
        window = self.marks[places[:, None] + self._window].flatten(1)
        neighbours = places[:, None] + self._neighbours
        values = (self.marks[neighbours][..., 0] * (10 * STEPS)).round().long()
        return window, values, self.runs[neighbours].log1p().flatten(1) / 3

    def put(self, places: Tensor, values: Tensor, row: Tensor, column: Tensor) -> None:
        """Draw pixels whose left and upper neighbours are drawn; all arguments are Long (N,)."""
        above, left = (places + self._neighbours[number] for number in (0, 1))
        grey = values / (10 * STEPS)
        is_left = ((grey == self.marks[left, 0]) & (column > 0)).float()
        is_above = ((grey == self.marks[above, 0]) & (row > 0)).float()
        self.marks[places] = torch.stack([grey, is_left, is_above, torch.ones_like(grey)], 1)
        runs = [(self.runs[left, 0] + 1) * is_left, (self.runs[above, 1] + 1) * is_above]
        self.runs[places] = torch.stack(runs, 1)


def _run_lengths(is_same: Tensor, dim: int) -> Tensor:
    """Return how many positions in a row, up to each, are True along `dim`."""
    shape = [1] * is_same.ndim
    shape[dim] = -1
    position = torch.arange(is_same.shape[dim], device=is_same.device).view(shape)
    last_change = torch.where(is_same, 0, position.expand_as(is_same)).cummax(dim).values
    return position - last_change
