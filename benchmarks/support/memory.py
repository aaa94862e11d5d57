"""How much memory a piece of work needs: measured by the allocator, or predicted on fake tensors.

Fake tensors have shapes and a device but no bytes, so the prediction needs neither the memory nor
the device. What is counted is what the allocator counts: the bytes of tensors that are alive. Not
in it are workspaces inside operations, the CUDA context (some hundred MB) and what the allocator
loses to fragmentation.
"""

from __future__ import annotations

import gc
import json
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")
CUDA_BLOCK = 512  # bytes that CUDA's caching allocator rounds up to
Work = Callable[[torch.device], Any]
"""Something that makes all its tensors itself, on the device that it is told."""


class MemoryTracker(TorchDispatchMode):
    """Adds up the bytes of all storages that operations make, for as long as they live.

    Attributes:
        now, peak: bytes.
    """

    def __init__(self, block: int) -> None:
        """Count storages rounded up to a multiple of `block` bytes."""
        super().__init__()
        self.block = block
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._hold(value.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = -(-storage.nbytes() // self.block) * self.block
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.now -= size


def predict(work: Work, device: torch.device) -> int:
    """Bytes at the peak of some work on a device, there or not.

    For a GPU that is not there the fake tensors are the CPU's, in blocks of the GPU's allocator:
    autograd asks the driver for a context of a GPU's tensors, even of fake ones.
    """
    gc.collect()
    is_there = device.type == "cpu" or torch.cuda.is_available()
    tracker = MemoryTracker(CUDA_BLOCK if device.type == "cuda" else 1)
    with FakeTensorMode(), tracker:
        work(device if is_there else CPU)
    return tracker.peak


def measure(work: Work, device: torch.device) -> int:
    """Bytes at the peak of some work on a device that is there, by the allocator's own record."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return peak_of([event for event in events if event.get("name") == "[memory]"])


def peak_of(events: list[dict[str, Any]]) -> int:
    """The most bytes that were allocated at once, by a trace's memory events.

    What was allocated before the trace began is not counted when it is freed.
    """
    held: dict[int, int] = {}
    now = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            held[address] = size
            now += size
        else:
            now -= held.pop(address, 0)
        peak = max(peak, now)
    return peak


def largest_that_fits(peak: Callable[[int], int], limit: int) -> int:
    """The largest number of pages whose `peak`, in bytes, is at most `limit`; 0 if none is.

    Args:
        peak: of a number of pages; it grows with them, and nearly in a straight line, so that few
            are looked at.
    """
    low, at_low, high, at_high = 0, 0, 1, peak(1)
    while at_high <= limit:
        further, at_further = 2 * high, peak(2 * high)
        if at_further <= limit:
            # One beyond where the line through both meets the limit.
            line = (at_further - at_high) / high
            low, at_low = further, at_further
            high = further + int((limit - at_further) / line) + 1
            at_high = peak(high)
        else:
            low, at_low, high, at_high = high, at_high, further, at_further
    while high - low > 1:
        line = (at_high - at_low) / (high - low)
        middle = min(max(low + int((limit - at_low) / line), low + 1), high - 1)
        at_middle = peak(middle)
        if at_middle <= limit:
            low, at_low = middle, at_middle
        else:
            high, at_high = middle, at_middle
    return low


def live_storages() -> dict[int, int]:
    """Storages of all tensors that Python knows, and their sizes."""
    gc.collect()
    return storage_bytes(
        [found for found in gc.get_objects() if type(found) in (Tensor, nn.Parameter)]
    )


def storage_bytes(tensors: list[Tensor]) -> dict[int, int]:
    """Storages and their sizes, each once however many tensors share it."""
    plain = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    storages = (tensor.untyped_storage() for tensor in plain if tensor.device.type != "meta")
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
