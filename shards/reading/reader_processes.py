"""Reader processes: started here, from a fork server, to read batches ahead of the training."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING

from shards.errors import REMEDIES, DamagedShards, ReaderFailed, plain_os_error
from shards.lifetime import STOP_SIGNALS
from shards.reading.messages import Disconnected, Failed, receive, send

if TYPE_CHECKING:
    from shards.reading.batch import Batch
    from shards.reading.datasets import EvaluationDataset, TrainingDataset

PATIENCE = 600.0  # seconds that a batch is waited for
START_SECONDS = 60.0  # that a reader process is waited for; the first one imports torch
END_SECONDS = 5.0  # that reader processes have to end by themselves
SERVER_DIED = 255  # exit code of a process whose fork server has died, see `multiprocessing`
READ_IN_PROCESS = "or set data.workers=0, which reads without reader processes"
LOOK_AT_IT = "its messages above say more; data.workers=0 reads without reader processes"
WAIT_LONGER = f"raise train.timeout_seconds, {READ_IN_PROCESS}"
TMPDIR_LENGTH = 70  # the kernel allows 107 for a socket, of which `multiprocessing` uses some
_TICK = 1.0  # seconds between two looks at the clock


def start_reader_server(*modules: str) -> None:
    """Start the fork server of the reader processes, without waiting for it.

    The server has no threads. Reader processes that were forked from the trainer, which has the
    threads of its process group, sometimes hung before their first line of Python. A server that is
    started early imports its modules while the trainer imports its own.

    Args:
        modules: imported by the server, so that the reader processes need not import them.

    Raises ReaderFailed.
    """
    # The server searches modules where a new interpreter does: this process' sys.path is not used.
    root = str(Path(__file__).resolve().parents[2])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])
    own = ("shards.reading.reader_server_preload", "shards.reading.reader_body")
    multiprocessing.set_forkserver_preload([*own, *modules])
    # The server inherits ignored signals. A launcher sends stop signals to the process group of a
    # rank; the rank then saves a checkpoint, and still needs its reader processes.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        forkserver.ensure_running()
    except OSError as error:
        raise _start_failure(error) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def read_batches(
    dataset: TrainingDataset | EvaluationDataset,
    numbers: range,
    *,
    workers: int,
    prefetch: int,
    pin_memory: bool = False,
    patience: float = PATIENCE,
) -> Iterator[Batch | None]:
    """Yield the batches of these numbers, in order, read ahead by reader processes.

    Args:
        workers: number of reader processes; 0: batches are read in this process.
        prefetch: batches that each reader process reads ahead.
        pin_memory: whether to put batches into page-locked memory.
        patience: seconds that a batch is waited for.

    Raises DamagedShards if a shard differs from the index, or if the index was replaced since it
    was opened, and ReaderFailed, which names the remedy, if a reader process cannot be started, has
    died, fails, or makes no batch for `patience` seconds.
    """
    dataset.collator.files.index.check_unchanged()  # reader processes open it again
    if not workers:
        for number in numbers:
            batch = dataset[number]
            yield batch.pin_memory() if pin_memory and batch is not None else batch
        return
    start_reader_server("shards.reading.datasets")  # does nothing if it runs already
    device = _cuda_device() if pin_memory else None
    readers: list[Reader] = []
    # Also called when this process exits before it has read all batches. Otherwise multiprocessing
    # would wait for the reader processes, which ignore the signal that it sends them.
    close = Finalize(None, close_readers, (readers,), exitpriority=10)
    try:
        for first in range(min(workers, len(numbers))):
            readers.append(Reader(dataset, numbers[first::workers], prefetch, device))
        for reader in readers:
            reader.wait_until_started(START_SECONDS)
        for place in range(len(numbers)):
            yield readers[place % workers].next_batch(patience)
    finally:
        close()


class Reader:
    """A reader process, and the thread of this process that starts it and receives its batches.

    The process is started by the thread because a fork server that hangs blocks its caller.
    """

    def __init__(
        self, dataset: object, numbers: Sequence[int], prefetch: int, device: int | None
    ) -> None:
        """Start to read.

        Args:
            prefetch: batches to receive ahead.
            device: number of the CUDA device to pin memory for; None: batches are not pinned.
        """
        from shards.reading.reader_body import run_reader

        self._own, self._theirs = _socket_pair()
        self._job = (dataset, numbers)
        self._device = device
        self._messages: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._free = threading.Semaphore(prefetch)
        self._is_closed = False
        self._process = multiprocessing.get_context("forkserver").Process(
            target=run_reader, args=(self._theirs,), daemon=True
        )
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def wait_until_started(self, seconds: float) -> None:
        """Wait until the process runs; raises ReaderFailed, or DamagedShards."""
        self._next_message(seconds, f"has not started within {seconds:g} s; {LOOK_AT_IT}")

    def next_batch(self, seconds: float) -> Batch | None:
        """Return the next batch; raises ReaderFailed, or DamagedShards."""
        return self._next_message(seconds, f"has made no batch for {seconds:g} s; {WAIT_LONGER}")

    def disconnect(self) -> None:
        """Let the process and the thread end."""
        self._is_closed = True
        self._free.release()
        with contextlib.suppress(OSError):
            self._own.shutdown(socket.SHUT_RDWR)

    def end(self, seconds: float) -> None:
        """Wait for the process and the thread, after `disconnect`; kill the process if need be."""
        if self._process.pid is not None:
            self._process.join(seconds)
            self._process.kill()
            self._process.join(END_SECONDS)
        self._thread.join(seconds)
        self._own.close()

    def _next_message(self, seconds: float, complaint: str) -> Batch | None:
        waited, before = 0.0, time.monotonic()
        while True:
            try:
                message = self._messages.get(timeout=_TICK)
                break
            except queue.Empty:
                # Limited, as this process may have been paused.
                now = time.monotonic()
                waited, before = waited + min(now - before, 2 * _TICK), now
            if waited >= seconds:
                raise ReaderFailed(f"a reader process {complaint}")
        self._free.release()
        if isinstance(message, Failed):
            raise (DamagedShards if message.is_damage else ReaderFailed)(message.reason)
        if isinstance(message, Disconnected):
            self._process.join(END_SECONDS)
            raise ReaderFailed(reason_of_end(self._process.exitcode))
        if isinstance(message, BaseException):
            raise message
        return message

    def _receive(self) -> None:
        with _LastMessage(self._messages):
            import torch

            from shards.reading.batch import Batch

            with self._theirs:
                start_process(self._process)
            send(self._own, self._job)
            if self._device is not None:
                torch.cuda.set_device(self._device)
            while True:
                self._free.acquire()
                if self._is_closed:
                    return
                message = receive(self._own)
                if self._device is not None and isinstance(message, Batch):
                    message = message.pin_memory()
                self._messages.put(message)


class _LastMessage:
    """Context that puts the exception that ends it, of any kind, into a queue of messages."""

    def __init__(self, messages: queue.SimpleQueue[object]) -> None:
        self.messages = messages

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> bool:
        self.messages.put(error)
        return True


def start_process(process: BaseProcess) -> None:
    """Start a process by the fork server; raises ReaderFailed."""
    try:
        process.start()
    except (OSError, EOFError) as error:
        raise _start_failure(error) from error


def reason_of_end(code: int | None) -> str:
    """Return in one line why a reader process ended before its last batch.

    Args:
        code: exit code of the process, negative for a signal; None: it still runs.
    """
    if code is None:
        return f"a reader process closed its connection; {LOOK_AT_IT}"
    if code in (-signal.SIGKILL, SERVER_DIED):
        return (
            "a reader process was killed, probably for lack of memory; lower data.workers or "
            "data.prefetch"
        )
    if code == -signal.SIGBUS:
        return (
            "a reader process died of SIGBUS: shared memory is full (see df /dev/shm; docker run "
            "--shm-size=1g enlarges it), or a file was cut short while it was in use; make space, "
            "or set data.workers=0"
        )
    if code < 0:
        return f"a reader process died of {signal.Signals(-code).name}; {LOOK_AT_IT}"
    return f"a reader process ended with status {code}; {LOOK_AT_IT}"


def close_readers(readers: Sequence[Reader]) -> None:
    """End reader processes and their threads."""
    for reader in readers:
        reader.disconnect()
    deadline = time.monotonic() + END_SECONDS
    for reader in readers:
        reader.end(max(0.0, deadline - time.monotonic()))


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    try:
        return socket.socketpair()
    except OSError as error:
        raise _start_failure(error) from error


def _start_failure(error: OSError | EOFError) -> ReaderFailed:
    if isinstance(error, EOFError):
        reason = "the process that starts them has ended; its messages above say why"
    else:
        reason = plain_os_error(error)
        if error.errno not in REMEDIES:  # of the socket that they are started through
            reason += f"; set TMPDIR to a writable folder with a path under {TMPDIR_LENGTH} letters"
    return ReaderFailed(f"no reader process can be started: {reason}, {READ_IN_PROCESS}")


def _cuda_device() -> int:
    import torch

    return torch.cuda.current_device()
