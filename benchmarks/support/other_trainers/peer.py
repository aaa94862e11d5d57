"""A trainer that is compared with others: its task, its interface, and a process of its own.

Each peer trains in its own process, because this project's trainer changes its process, for example
by `keep_freed_memory`.
"""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.support.other_trainers.input_pipelines import PageFiles
from benchmarks.support.plain_loop import textbook
from shards.lifetime import die_with_parent
from vaetrain.config.experiment import Experiment
from vaetrain.model.vae import VAE


@dataclass(frozen=True)
class Task:
    """Pages and experiment that a peer trains.

    Attributes:
        pages: PNGs, in batches; `pages.ladder[-1]` is the height of the canvas, px.
        heights: int64 (N,), heights of the pages without padding.
        experiment: model, loss weights and optimizer.
        workers: reader processes.
        folder: for files that a peer writes.
    """

    pages: PageFiles
    heights: np.ndarray
    experiment: Experiment
    device: torch.device
    workers: int
    folder: Path
    seed: int

    @property
    def rows(self) -> int:
        """Height of the canvas, px."""
        return int(self.pages.ladder[-1])

    def model(self) -> VAE:
        """Return a new model of this project on the device."""
        torch.manual_seed(self.seed)
        data = self.experiment.data
        return VAE(self.experiment.model, data.width, data.max_height).to(self.device)

    def textbook_model(self) -> VAE:
        """Return the same model in torch's own layers; run it only within `MaskingDisabled`."""
        vae = self.model()
        textbook(vae)
        return vae


@dataclass(frozen=True)
class Peer:
    """A trainer that is compared.

    Attributes:
        epoch: trains on every page once, except an incomplete last batch; returns the page count.
        forward: images (B, 1, H, W) and heights (B,) to the output, to count FLOPs.
        rows: number of pages trained so far by padded height.
    """

    epoch: Callable[[], int]
    forward: Callable[[Tensor, Tensor], Tensor]
    rows: Counter[int] = field(default_factory=Counter)

    def flops(self, height: int, width: int, device: torch.device) -> int:
        """Count the FLOPs of the model's forward and backward pass of one page of this size."""
        images = torch.rand(1, 1, height, width, device=device)
        with FlopCounterMode(display=False) as counter:
            self.forward(images, torch.tensor([height], device=device)).sum().backward()
        return counter.get_total_flops()

    def threads(self) -> int:
        """Return the number of CPU threads that torch uses in this process."""
        return torch.get_num_threads()


class PeerProcess:
    """A peer in its own process; made by `peer_process`."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        """Wrap the process in which `_start` has made a peer."""
        self.rows: Counter[int] = Counter()
        self._pool = pool

    def epoch(self) -> int:
        """Train one epoch, as `Peer.epoch`."""
        images, self.rows = self._pool.submit(_epoch).result()
        return images

    def flops(self, height: int, width: int, device: torch.device) -> int:
        """Count FLOPs, as `Peer.flops`."""
        return self._pool.submit(_flops, height, width, device).result()

    def threads(self) -> int:
        """Return the threads of the peer's process, as `Peer.threads`; a library may set them."""
        return self._pool.submit(_threads).result()


@contextlib.contextmanager
def peer_process(make: Callable[[Task], Peer], task: Task) -> Iterator[PeerProcess]:
    """Make a peer in a process with as many threads as this one.

    Args:
        make: a function of a module, so that it can be pickled.

    Raises ImportError if it is not installed.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(_start, make, task, torch.get_num_threads()).result()
        yield PeerProcess(pool)


_process_peer: list[Peer] = []  # the peer of a process started by `peer_process`


def _start(make: Callable[[Task], Peer], task: Task, threads: int) -> None:
    die_with_parent(signal.SIGKILL)
    set_start_method("fork", force=True)  # the default for a DataLoader in a user's script
    torch.set_num_threads(threads)
    _process_peer.append(make(task))


def _epoch() -> tuple[int, Counter[int]]:
    return _process_peer[0].epoch(), _process_peer[0].rows


def _flops(*size: Any) -> int:
    return _process_peer[0].flops(*size)


def _threads() -> int:
    return _process_peer[0].threads()
