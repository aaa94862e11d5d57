"""Slices of ranks become whole tensors with the same bits, whatever ranges the ranks hold."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
import torch.distributed as dist

from vaetrain.engines import slices
from vaetrain.engines.slices import Split, even_bounds, gather_slices, in_buckets, read_range

SIZES = (1, 5, 12, 30)
SPECIAL = torch.tensor([0.0, -0.0, float("inf"), float("nan"), 1e-42, -3.5])


class Ranks:
    """Collectives of ranks that are threads; counts the calls of the first one."""

    def __init__(self, count: int) -> None:
        self.values, self.barrier, self.calls = [None] * count, Barrier(count), []

    def exchange(self, rank: int, name: str, tensor: torch.Tensor) -> list[torch.Tensor]:
        if rank == 0:
            self.calls.append(name)
        self.values[rank] = tensor.clone()
        self.barrier.wait(20)
        values = list(self.values)
        self.barrier.wait(20)
        return values

    def all_gather(self, received, sent, group):
        for target, value in zip(received, self.exchange(group, "gather", sent), strict=True):
            target.copy_(value)

    def all_reduce(self, tensor, group):
        tensor.copy_(torch.stack(self.exchange(group, "reduce", tensor)).sum(0, dtype=tensor.dtype))


def gathered(bounds: list[list[int]], monkeypatch) -> tuple[list[list[torch.Tensor]], list, list]:
    """Gather random tensors on every rank; return the results, the tensors and the calls."""
    count = len(bounds[0]) - 1
    ranks = Ranks(count)
    monkeypatch.setattr(slices.dist, "all_gather", ranks.all_gather)
    monkeypatch.setattr(slices.dist, "all_reduce", ranks.all_reduce)
    whole = [SPECIAL[torch.randint(len(SPECIAL), (each[-1],))] for each in bounds]

    def gather(rank: int) -> list[torch.Tensor]:
        own = [t[b[rank] : b[rank + 1]] for t, b in zip(whole, bounds, strict=True)]
        return gather_slices(own, bounds, Split(count, rank, group=rank))

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(gather, range(count))), whole, ranks.calls


@pytest.mark.parametrize(
    ("bounds", "calls"),
    [
        ([even_bounds(size, 3) for size in SIZES], ["gather"]),
        # As ZeRO-1 divides a group: most tensors lie on one rank.
        ([[0, size, size, size, size, size] for size in SIZES], ["reduce"]),
        ([[0, 1, 1, 1, 1], [0, 4, 5, 5, 5], [0, 0, 12, 12, 12], [0, 0, 0, 0, 30]], ["reduce"]),
        ([[0, size] for size in SIZES], []),
    ],
)
def test_one_collective_gives_the_same_bits(bounds, calls, monkeypatch):
    results, whole, used = gathered(bounds, monkeypatch)
    assert used == calls
    for tensors in results:
        for tensor, expected in zip(tensors, whole, strict=True):
            assert torch.equal(tensor.view(torch.int32), expected.view(torch.int32))


def test_buckets_keep_the_order_and_the_limit():
    sizes = [3, 4, 9, 1, 1, 20, 2]
    buckets = list(in_buckets(zip(sizes, sizes, strict=True), limit=8))
    assert buckets == [[3, 4], [9], [1, 1], [20], [2]]
    assert list(in_buckets([])) == []


def test_ranges_are_nearly_equal_and_cover_everything():
    assert even_bounds(10, 4) == [0, 2, 5, 7, 10]
    assert even_bounds(2, 3) == [0, 0, 1, 2]


def test_a_range_of_a_channels_last_tensor_is_in_row_major_order():
    tensor = torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    assert read_range({"a": tensor}, "a", 5, 9).tolist() == [5, 6, 7, 8]


def test_the_real_group_of_one_process_needs_no_collective():
    assert not dist.is_initialized()
    assert gather_slices([torch.ones(2)], [[0, 2]], Split(1, 0))[0].tolist() == [1, 1]
