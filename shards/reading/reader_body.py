"""Body of a reader process: makes batches and sends them, or the reason why it cannot."""

from __future__ import annotations

import signal
import socket
import traceback
from types import TracebackType

import torch

from shards.errors import DamagedShards, UserError, one_line, plain_os_error
from shards.lifetime import STOP_SIGNALS, die_with_parent
from shards.reading.messages import Disconnected, Failed, Started, receive, send


def run_reader(connection: socket.socket) -> None:
    """Receive a dataset and numbers, and send the dataset's batches of these numbers in order.

    Whatever fails is sent as the last message, so that the trainer does not wait for a batch.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
    torch.set_num_threads(1)
    with _FailureReport(connection):
        dataset, numbers = receive(connection)
        send(connection, Started())
        for number in numbers:
            send(connection, dataset[number])


class _FailureReport:
    """Context that sends the exception which ends it, of any kind, as one line of text.

    An exception itself is not sent, as it may not survive pickling.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None or isinstance(error, Disconnected):
            return True  # all is sent, or the trainer has stopped reading
        if not isinstance(error, DamagedShards | UserError | OSError | MemoryError):
            traceback.print_exception(kind, error, trace)
        send(self.connection, Failed(_reason(error), isinstance(error, DamagedShards)))
        return True


def _reason(error: BaseException) -> str:
    if isinstance(error, DamagedShards | UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"a reader process failed: {plain_os_error(error)}"
    if isinstance(error, MemoryError):
        return "a reader process is out of memory; lower data.workers or data.prefetch"
    return f"a reader process failed: {type(error).__name__}: {one_line(str(error))}"
