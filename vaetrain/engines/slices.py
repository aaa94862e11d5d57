"""Slices of tensors: which elements each rank holds, and how they become whole tensors again.

A slice is a range of a tensor's elements in row-major order, whatever its memory format. The ranges
of the ranks follow each other; `bounds[i]` to `bounds[i + 1]` is the range of the i-th rank.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET = 16 << 20  # elements that one collective makes whole: 64 MiB in fp32

T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """Division of a model's state over the ranks.

    Attributes:
        count: ranks that together hold one copy of the state.
        index: number of this rank among them.
        replicas: number of copies; `count * replicas` is the world size.
        replica: number of the copy that this rank has a part of.
        group: process group of the ranks of one copy; None: all ranks.
    """

    count: int
    index: int
    replicas: int = 1
    replica: int = 0
    group: dist.ProcessGroup | None = None

    @property
    def part(self) -> int:
        """Number of the part of the state that only this rank writes to a checkpoint."""
        return self.index * self.replicas + self.replica

    def part_bounds(self, bounds: list[int]) -> tuple[int, ...]:
        """Return the bounds of all parts; the replicas of a slice write a share of it each."""
        parts = [
            start + offset
            for start, stop in pairwise(bounds)
            for offset in even_bounds(stop - start, self.replicas)[:-1]
        ]
        return (*parts, bounds[-1])


class RangeReader(Mapping[str, Tensor], abc.ABC):
    """Tensors by name, of which a range of elements can be read alone."""

    @abc.abstractmethod
    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Return the elements `start` to `stop` of a tensor in row-major order, (stop - start,)."""

    @abc.abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""


def read_range(tensors: Mapping[str, Tensor], name: str, start: int, stop: int) -> Tensor:
    """Return a range of a tensor's elements; of a `RangeReader`, no others are read."""
    if isinstance(tensors, RangeReader):
        return tensors.read(name, start, stop)
    return tensors[name].flatten()[start:stop]


def even_bounds(elements: int, count: int) -> list[int]:
    """Return the bounds of `count` ranges of nearly equal lengths."""
    return [elements * number // count for number in range(count + 1)]


def in_buckets(items: Iterable[tuple[T, int]], limit: int = BUCKET) -> Iterator[list[T]]:
    """Yield items in groups of at most `limit` elements, in order; a larger item is alone.

    Args:
        items: pairs of an item and its number of elements.
    """
    bucket: list[T] = []
    total = 0
    for item, elements in items:
        if bucket and total + elements > limit:
            yield bucket
            bucket, total = [], 0
        bucket.append(item)
        total += elements
    if bucket:
        yield bucket


def gather_slices(own: list[Tensor], bounds: list[list[int]], split: Split) -> list[Tensor]:
    """Return whole tensors, flat, from the slices of the ranks. One collective.

    Args:
        own: this rank's slices of fp32 tensors, flat, on the device of the process group.
        bounds: of each tensor, of length `split.count + 1`.
    """
    sizes = [
        [stop - start for start, stop in ranges]
        for ranges in zip(*(pairwise(each) for each in bounds), strict=True)
    ]
    if split.count == 1:
        return [tensor.clone() for tensor in own]
    total, longest = sum(each[-1] for each in bounds), max(map(sum, sizes))
    if longest * split.count <= 2 * total:
        return _gather_padded(own, sizes, longest, split)
    # Few ranks hold the whole bucket, so padding would multiply it by the number of ranks.
    return _sum_as_integers(own, bounds, split)


def read_in_shares(
    tensors: RangeReader, rank: int, world_size: int, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors, whole and in fp32; each rank reads its share of each. Collective.

    One collective for each bucket of `BUCKET` elements.
    """
    split = Split(world_size, rank)
    sized = ((name, math.prod(tensors.shape(name))) for name in tensors)
    for bucket in in_buckets(sized):
        shapes = [tensors.shape(name) for name in bucket]
        bounds = [even_bounds(math.prod(shape), world_size) for shape in shapes]
        own = [
            tensors.read(name, *each[rank : rank + 2]).float().to(device)
            for name, each in zip(bucket, bounds, strict=True)
        ]
        whole = gather_slices(own, bounds, split)
        for name, shape, tensor in zip(bucket, shapes, whole, strict=True):
            yield name, tensor.view(shape)


def _gather_padded(
    own: list[Tensor], sizes: list[list[int]], longest: int, split: Split
) -> list[Tensor]:
    sent = own[0].new_zeros(longest)
    sent[: sum(sizes[split.index])] = torch.cat(own)
    received = [torch.empty_like(sent) for _ in range(split.count)]
    dist.all_gather(received, sent, group=split.group)
    parts = [
        part[: sum(lengths)].split(lengths) for part, lengths in zip(received, sizes, strict=True)
    ]
    return [torch.cat(pieces) for pieces in zip(*parts, strict=True)]


def _sum_as_integers(own: list[Tensor], bounds: list[list[int]], split: Split) -> list[Tensor]:
    whole = own[0].new_zeros(sum(each[-1] for each in bounds))
    tensors = whole.split([each[-1] for each in bounds])
    for tensor, slice, each in zip(tensors, own, bounds, strict=True):
        tensor[each[split.index] : each[split.index + 1]] = slice
    # One rank has the element's bits and all others have 0; a sum of floats would lose the sign of
    # a zero.
    dist.all_reduce(whole.view(torch.int32), group=split.group)
    return [tensor.clone() for tensor in tensors]
