"""Peak memory of a function: measured by the allocator, or predicted on fake tensors.

Fake tensors have shapes and a device but no bytes, so the prediction needs neither the memory nor
the device. The bytes of live tensors are counted, as by the allocator. Not included are workspaces
inside operations, the CUDA context (some hundred MB) and fragmentation. The batch-size study
(`batch_size/study.py`) predicts the step that `batch_size/trainer_step.py` builds.
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

from vaetrain.engines.spec import ENGINES

CPU = torch.device("cpu")
REST = "gradients and buffers"  # a kind of memory, beside weights, moments and average
CUDA_BLOCK = 512  # bytes that CUDA's caching allocator rounds up to
Work = Callable[[torch.device], Any]
"""A function that makes all its tensors itself, on the device that it is given."""


class MemoryTracker(TorchDispatchMode):
    """A dispatch mode that sums the bytes of all live storages made by operations.

    Attributes:
        now, peak: bytes alive, and their maximum so far.
    """

    def __init__(self, block: int) -> None:
        """Count storages rounded up to a multiple of `block` bytes."""
        super().__init__()
        self.block = block
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = -(-storage.nbytes() // self.block) * self.block
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.now -= size


def predict(work: Work, device: torch.device) -> int:
    """Predict the peak bytes of work on a device, which need not be available.

    Without a GPU its fake tensors are on the CPU, rounded up to blocks of the GPU's allocator:
    autograd asks the driver for a context for CUDA tensors, even for fake ones.
    """
    gc.collect()
    is_available = device.type == "cpu" or torch.cuda.is_available()
    tracker = MemoryTracker(CUDA_BLOCK if device.type == "cuda" else 1)
    with FakeTensorMode(), tracker:
        work(device if is_available else CPU)
    return tracker.peak


def measure(work: Work, device: torch.device) -> int:
    """Measure the peak bytes of work on a device, by the allocator's own record."""
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
    """Return the peak of allocated bytes by a trace's memory events.

    Freeing a block that was allocated before the trace does not change the count.
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
    """Return the largest number of pages whose peak is at most `limit` bytes; 0 if there is none.

    Args:
        peak: bytes for a number of pages, increasing and nearly linear. Interpolation along the
            line keeps the number of calls small.
    """
    low, at_low, high, at_high = 0, 0, 1, peak(1)
    while at_high <= limit:
        double, at_double = 2 * high, peak(2 * high)
        if at_double <= limit:
            # One page beyond the point where the line through both reaches the limit.
            slope = (at_double - at_high) / high
            low, at_low = double, at_double
            high = double + int((limit - at_double) / slope) + 1
            at_high = peak(high)
        else:
            low, at_low, high, at_high = high, at_high, double, at_double
    while high - low > 1:
        slope = (at_high - at_low) / (high - low)
        middle = min(max(low + int((limit - at_low) / slope), low + 1), high - 1)
        at_middle = peak(middle)
        if at_middle <= limit:
            low, at_low = middle, at_middle
        else:
            high, at_high = middle, at_middle
    return low


def live_storages() -> dict[int, int]:
    """Return the storages of all tensors known to Python: data pointer to bytes."""
    gc.collect()
    return storage_bytes(
        [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter)]
    )


def storage_bytes(tensors: list[Tensor]) -> dict[int, int]:
    """Return data pointer to bytes of the tensors' storages; tensors may share a storage."""
    plain = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    storages = (tensor.untyped_storage() for tensor in plain if tensor.device.type != "meta")
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def resident_bytes() -> int:
    """Return the resident bytes of this process, without those of mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["RssAnon"].split()[0])


def predicted_state(engine: str, parameters: int, ranks: int) -> dict[str, float]:
    """Return the theoretical bytes of a rank by kind, in fp32.

    Rajbhandari et al. 2020, section 5 and figure 1, for fp32 training: a parameter takes 4 bytes of
    weight, 4 of gradient, 4 of EMA and 8 of moments. The engine's stage decides which of them are
    partitioned. ZeRO keeps its partition of the optimised weights besides those of the forward
    pass, which are fp32 here as well. Communication buffers are not included.
    """
    spec = ENGINES[engine]
    stage = spec.stage
    whole, share = 4.0 * parameters, 4.0 * parameters / ranks
    return {
        "weights": (share if stage == 3 else whole) + (share if spec.separate_masters else 0),
        REST: share if stage >= 2 else whole,
        "moments": 2 * (share if stage >= 1 else whole),
        "average": share if stage >= 1 else whole,
    }
