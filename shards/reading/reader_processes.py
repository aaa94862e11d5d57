"""Reader processes: started here, from a fork server, to read batches ahead of the training."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING

from shards.errors import DamagedShards
from shards.lifetime import STOP_SIGNALS, die_with_parent

if TYPE_CHECKING:
    from shards.reading.batch import Batch
    from shards.reading.datasets import EvaluationDataset, TrainingDataset


def start_reader_server(*modules: str) -> None:
    """Start the fork server of the reader processes, without waiting for it.

    The server has no threads. Reader processes that were forked from the trainer, which has the
    threads of its process group, sometimes hung before their first line of Python. A server that is
    started early imports its modules while the trainer imports its own.

    Args:
        modules: imported by the server, so that the reader processes need not import them.
    """
    # The server searches modules where a new interpreter does: this process' sys.path is not used.
    root = str(Path(__file__).resolve().parents[2])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])
    multiprocessing.set_forkserver_preload(["shards.reading.reader_server_preload", *modules])
    # The server inherits ignored signals. A launcher sends stop signals to the process group of a
    # rank; the rank then saves a checkpoint, and still needs its reader processes.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    forkserver.ensure_running()
    for number, handler in before.items():
        signal.signal(number, handler)


def read_batches(
    dataset: TrainingDataset | EvaluationDataset,
    numbers: range,
    *,
    workers: int,
    prefetch: int,
    pin_memory: bool = False,
) -> Iterator[Batch | None]:
    """Yield the batches of these numbers, in order, read ahead by reader processes.

    Args:
        workers: number of reader processes; 0: batches are read in this process.
        prefetch: batches that each reader process reads ahead.

    Raises DamagedShards if a shard differs from the index, or if the index was replaced since it
    was opened.
    """
    # Imported here: `vaetrain.train` imports this module before it chooses a launcher.
    from torch.utils.data import DataLoader

    dataset.collator.files.index.check_unchanged()  # reader processes open it again
    if workers:
        start_reader_server("shards.reading.datasets")  # does nothing if it runs already
    loader = DataLoader(
        dataset,
        sampler=numbers,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_set_up_reader_process,
        multiprocessing_context="forkserver" if workers else None,
    )
    for batch in loader:
        if isinstance(batch, DamagedShards):
            raise batch
        yield batch


def _set_up_reader_process(_: int) -> None:
    # torch has installed signal handlers of its own just before this call.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
