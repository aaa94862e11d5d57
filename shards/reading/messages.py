"""Messages between a reader process and its trainer, sent as bytes through a socket.

A hand-over through files of shared memory, as torch's DataLoader makes it, fails where `/dev/shm`
is small (64 MB in Docker by default), and a failure on the sender's side leaves the receiver
waiting. A socket needs no such file, and its receiver notices at once that the sender has ended.
"""

from __future__ import annotations

import pickle
import socket
import struct
from dataclasses import dataclass

import numpy as np

PROTOCOL = 5  # of pickle: arrays are sent as they are, without a copy into the pickle
_COUNT = struct.Struct("!I")


class Disconnected(Exception):
    """The process at the other end of the socket has ended or closed it."""


@dataclass(frozen=True)
class Started:
    """First message of a reader process: it runs, and has opened its shards."""


@dataclass(frozen=True)
class Failed:
    """Last message of a reader process that cannot go on.

    Attributes:
        reason: one line.
        is_damage: whether the shards are the reason.
    """

    reason: str
    is_damage: bool


def send(connection: socket.socket, message: object) -> None:
    """Send an object; raises Disconnected.

    Nothing is sent if the object cannot be pickled.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, PROTOCOL, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    lengths = struct.pack(f"!{len(parts)}Q", *(part.nbytes for part in parts))
    try:
        connection.sendall(_COUNT.pack(len(parts)) + lengths)
        for part in parts:
            connection.sendall(part)
    except OSError as error:
        raise Disconnected from error


def receive(connection: socket.socket) -> object:
    """Return the next object that was sent; raises Disconnected."""
    try:
        (count,) = _COUNT.unpack(_read(connection, _COUNT.size))
        lengths = struct.unpack(f"!{count}Q", _read(connection, 8 * count))
        head, *buffers = [_read(connection, length) for length in lengths]
    except OSError as error:
        raise Disconnected from error
    # Only the trainer and its own reader hold this socket pair, which has no name or address.
    return pickle.loads(head, buffers=buffers)


def _read(connection: socket.socket, length: int) -> memoryview:
    # Allocated by numpy, which aligns the memory and does not clear it first.
    view = memoryview(np.empty(length, np.uint8))
    done = 0
    while done < length:
        received = connection.recv_into(view[done:], 0, socket.MSG_WAITALL)
        if not received:
            raise Disconnected
        done += received
    return view
