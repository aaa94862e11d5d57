"""Link between two network namespaces that delays their packets and limits their rate.

    python slow_link.py NAMESPACE NAMESPACE DEVICE DELAY RATE

Makes a TUN device in each namespace and passes packets between them: DELAY seconds later, and RATE
bytes a second in each direction. Prints a line when the devices exist. SIGUSR1 cuts the link, so
that all packets are lost; SIGUSR2 mends it.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import struct
import sys
import time
from collections import deque

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PACKET = 1 << 16  # bytes, at most


def open_device(namespace: str, device: str) -> int:
    """Make a TUN device in a namespace and return its descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    other = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
    assert libc.setns(other, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    file = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI)
    fcntl.ioctl(file, TUNSETIFF, request)
    assert libc.setns(own, CLONE_NEWNET) == 0
    return file


class Link:
    """Packets on their way between two devices."""

    def __init__(self, ends: list[int], delay: float, rate: float) -> None:
        self.ends, self.delay, self.rate = ends, delay, rate
        self.is_cut = False
        self.packets: list[deque[tuple[float, bytes]]] = [deque(), deque()]
        self.sent = [0.0, 0.0]  # when the last packet has left, by direction

    def run(self) -> None:
        """Pass packets until this process is killed."""
        while True:
            due = [queue[0][0] for queue in self.packets if queue]
            pause = max(0.0, min(due) - time.monotonic()) if due else None
            ready, _, _ = select.select(self.ends, [], [], pause)
            for direction, end in enumerate(self.ends):
                if end in ready:
                    self.take(direction, os.read(end, PACKET))
                self.deliver(direction)

    def take(self, direction: int, packet: bytes) -> None:
        """Accept a packet, or lose it."""
        if not self.is_cut:
            begin = max(self.sent[direction], time.monotonic())
            self.sent[direction] = begin + len(packet) / self.rate
            self.packets[direction].append((self.sent[direction] + self.delay, packet))

    def deliver(self, direction: int) -> None:
        """Write the packets whose time has come."""
        queue = self.packets[direction]
        while queue and queue[0][0] <= time.monotonic():
            with contextlib.suppress(OSError):  # the device is not up yet
                os.write(self.ends[1 - direction], queue.popleft()[1])

    def set_cut(self, is_cut: bool) -> None:
        """Cut or mend the link; packets on their way are lost."""
        self.is_cut, self.packets = is_cut, [deque(), deque()]


if __name__ == "__main__":
    first, second, device, delay, rate = sys.argv[1:]
    link = Link([open_device(each, device) for each in (first, second)], float(delay), float(rate))
    signal.signal(signal.SIGUSR1, lambda *_: link.set_cut(True))
    signal.signal(signal.SIGUSR2, lambda *_: link.set_cut(False))
    print("ready", flush=True)
    link.run()
