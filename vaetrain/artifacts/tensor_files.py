"""Tensors of a checkpoint in one file, or as slices in the files of several ranks."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vaetrain.engines.slices import RangeReader

OPEN_FILES = 16  # that a reader keeps open; a checkpoint may have thousands


@dataclass(frozen=True)
class Entry:
    """A tensor that is cut into slices, one in each file.

    Attributes:
        shape: of the whole tensor.
        bounds: the i-th file has the elements `bounds[i]` to `bounds[i + 1]` in row-major order; it
            lacks the tensor if there are none.
    """

    shape: tuple[int, ...]
    bounds: tuple[int, ...]

    def check(self, files: int) -> None:
        """Raise ValueError unless the slices of this number of files make up the tensor."""
        ends = (self.bounds[0], self.bounds[-1])
        if (
            len(self.bounds) != files + 1
            or ends != (0, math.prod(self.shape))
            or any(start > stop for start, stop in pairwise(self.bounds))
        ):
            raise ValueError("the slices of the layout do not make up its tensors")


Layout = Mapping[str, Entry]  # by the names of the tensors that are cut


class TensorFiles(RangeReader):
    """Tensors of one part of a checkpoint; each is read when it is asked for."""

    def __init__(self, paths: list[Path], layout: Layout) -> None:
        """Open the first file, which has all tensors that are not cut.

        Raises SafetensorError or OSError if it cannot be read.
        """
        self._paths, self._layout = paths, layout
        self._open = lru_cache(OPEN_FILES)(lambda number: safe_open(paths[number], "pt"))
        whole = [name for name in self._open(0).keys() if name not in layout]  # noqa: SIM118
        self._names = dict.fromkeys([*layout, *whole])

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._layout:
            return self._open(0).get_tensor(name)
        shape = self._layout[name].shape
        return self.read(name, 0, math.prod(shape)).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `RangeReader.shape`."""
        if name in self._layout:
            return self._layout[name].shape
        return tuple(self._open(0).get_slice(name).get_shape())

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """See `RangeReader.read`."""
        if start == stop:
            return torch.empty(0)
        if name not in self._layout:
            return self._read_whole(name, start, stop)
        bounds = self._layout[name].bounds
        pieces = []
        number = bisect_right(bounds, start) - 1
        while start < stop:
            first, last = bounds[number], min(bounds[number + 1], stop)
            if start < last:
                piece = self._open(number).get_slice(name)[start - first : last - first]
                pieces.append(piece)
                start = last
            number += 1
        return torch.cat(pieces)

    def _read_whole(self, name: str, start: int, stop: int) -> Tensor:
        """Read the rows with these elements of a tensor that is not cut."""
        part = self._open(0).get_slice(name)
        shape = part.get_shape()
        if not shape:
            return self._open(0).get_tensor(name).flatten()
        row = math.prod(shape[1:])
        first = start // row
        rows = part[first : -(-stop // row)]
        return rows.flatten()[start - first * row : stop - first * row]


def check_slices(path: Path, number: int, layout: Layout) -> None:
    """Raise an error of reading if the number-th file of a part lacks a slice of the layout."""
    with safe_open(path, "pt") as file:
        for name, entry in layout.items():
            elements = entry.bounds[number + 1] - entry.bounds[number]
            if elements and file.get_slice(name).get_shape() != [elements]:
                raise ValueError(f"{name} has another size than in the layout")


def encode_layouts(layouts: Mapping[str, Layout]) -> dict[str, Any]:
    """Return the layouts of all parts as JSON; equal bounds are stored once."""
    numbers: dict[tuple[int, ...], int] = {}
    parts = {
        part: {
            name: [list(entry.shape), numbers.setdefault(entry.bounds, len(numbers))]
            for name, entry in layout.items()
        }
        for part, layout in layouts.items()
    }
    return {"bounds": [list(each) for each in numbers], "parts": parts}


def decode_layouts(tree: Any, files: int) -> dict[str, Layout]:
    """Return the output of `encode_layouts`; raises an error of reading for any other value."""
    bounds = [tuple(map(int, each)) for each in tree["bounds"]]
    layouts = {
        part: {
            name: Entry(tuple(map(int, shape)), bounds[number])
            for name, (shape, number) in layout.items()
        }
        for part, layout in tree["parts"].items()
    }
    for layout in layouts.values():
        for entry in layout.values():
            entry.check(files)
    return layouts


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any device to one safetensors file; raises OSError."""
    on_host = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    try:
        # Other libraries read from "format" that the tensors are PyTorch's.
        save_file(on_host, path, {"format": "pt"})
    except SafetensorError as error:  # raised for a full disk as well
        raise OSError(str(error)) from error
