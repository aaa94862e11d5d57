"""Link between two machines that delays their packets, limits their rate, and breaks.

`SlowLink` starts this file as a program, which makes a TUN device in each network namespace and
passes packets between them. It obeys lines on its standard input, see `Wire.obey`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # `SlowLink` runs the file
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from benchmarks.support.machines.namespaces import DEVICE, NoNamespaces, set_up_devices

CLONE_NEWNET = 0x40000000
TUN, TUNSETIFF, IFF_TUN, IFF_NO_PI = "/dev/net/tun", 0x400454CA, 0x0001, 0x1000
PACKET = 1 << 16  # bytes, at most
MTU = 9000  # bytes; with 1,500, this program took half a core for 100 Mbit/s
TCP, RESET = 6, 0x14  # number of the protocol; flags RST and ACK


class SlowLink:
    """A running link; a context manager that ends it."""

    def __init__(self, machines: Sequence[str], delay: float = 0.0, rate: float = 1e9) -> None:
        """Connect two machines, see `namespaces.two_machines`; raises NoNamespaces.

        Args:
            delay: seconds that a packet takes in each direction.
            rate: bytes per second in each direction.
        """
        if not os.path.exists(TUN):
            raise NoNamespaces(f"there is no {TUN} here")
        command = [sys.executable, __file__, *machines]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.set(delay, rate)
        set_up_devices(machines, "mtu", str(MTU))

    def set(self, delay: float, rate: float) -> None:
        """Change the delay in seconds and the rate in bytes per second of coming packets."""
        self._command(f"set {delay} {rate}")

    def cut(self) -> None:
        """Lose all packets from now on."""
        self._command("cut")

    def reset(self) -> None:
        """Replace all packets of TCP by resets from now on, which break their connections."""
        self._command("reset")

    def mend(self) -> None:
        """Pass packets again."""
        self._command("pass")

    def __enter__(self) -> SlowLink:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _command(self, line: str) -> None:
        self._process.stdin.write(line + "\n")
        answer = self._process.stdout.readline()
        if answer != "done\n":
            raise NoNamespaces("the program of the link has ended; see its messages above")


class Wire:
    """Packets on their way between two devices.

    Attributes:
        delay, rate: see `SlowLink`.
        mode: `pass`, `cut` or `reset`.
    """

    def __init__(self, ends: list[int]) -> None:
        self.ends, self.delay, self.rate, self.mode = ends, 0.0, 1e9, "pass"
        self._packets: list[deque[tuple[float, bytes]]] = [deque(), deque()]
        self._sent = [0.0, 0.0]  # when the last packet has left, by direction

    def run(self, commands: int) -> None:
        """Pass packets until the file of commands ends."""
        while True:
            due = [queue[0][0] for queue in self._packets if queue]
            pause = max(0.0, min(due) - time.monotonic()) if due else None
            ready, _, _ = select.select([*self.ends, commands], [], [], pause)
            for direction, end in enumerate(self.ends):
                if end in ready:
                    self.take(direction, os.read(end, PACKET), time.monotonic())
                self.deliver(direction, time.monotonic())
            if commands in ready:
                line = os.read(commands, PACKET).decode()
                if not line:
                    return
                self.obey(line)
                print("done", flush=True)

    def obey(self, line: str) -> None:
        """Execute a command: `set DELAY RATE`, `pass`, `cut` or `reset`."""
        command, *numbers = line.split()
        if command == "set":
            self.delay, self.rate = map(float, numbers)
            return
        self.mode = command
        if command == "cut":
            self._packets = [deque(), deque()]

    def take(self, direction: int, packet: bytes, now: float) -> None:
        """Accept a packet, or lose it."""
        if self.mode == "cut":
            return
        begin = max(self._sent[direction], now)
        self._sent[direction] = begin + len(packet) / self.rate
        self._packets[direction].append((self._sent[direction] + self.delay, packet))

    def deliver(self, direction: int, now: float) -> None:
        """Write the packets whose time has come."""
        queue = self._packets[direction]
        while queue and queue[0][0] <= now:
            packet = queue.popleft()[1]
            if self.mode == "reset":
                packet = as_reset(packet)
            with contextlib.suppress(OSError):  # the device is not up yet
                os.write(self.ends[1 - direction], packet)


def as_reset(packet: bytes) -> bytes:
    """Return a packet of IPv4 and TCP as the reset of its connection; others unchanged.

    Its sequence number is the one that the receiver expects, so the receiver accepts it (RFC 5961,
    section 3).
    """
    header = 4 * (packet[0] & 15)
    if packet[0] >> 4 != 4 or packet[9] != TCP:
        return packet
    ip, tcp = bytearray(packet[:header]), bytearray(packet[header : header + 20])
    ip[2:4] = struct.pack("!H", header + 20)
    ip[10:12] = b"\0\0"
    ip[10:12] = checksum(ip)
    tcp[12:14] = bytes((5 << 4, RESET))
    tcp[16:18] = b"\0\0"
    tcp[16:18] = checksum(ip[12:20] + struct.pack("!HH", TCP, 20) + tcp)
    return bytes(ip + tcp)


def checksum(data: bytes | bytearray) -> bytes:
    """Return the internet checksum of an even number of bytes (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def open_device(namespace: str) -> int:
    """Make a TUN device in a network namespace, and return its descriptor; raises OSError."""
    with open("/proc/self/ns/net") as own, open(f"/var/run/netns/{namespace}") as other:
        _enter(other.fileno())
        try:
            file = os.open(TUN, os.O_RDWR)
            request = struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI)
            fcntl.ioctl(file, TUNSETIFF, request)
        finally:
            _enter(own.fileno())
    return file


def _enter(namespace: int) -> None:
    """Move this thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)  # Python has `os.setns` from 3.12
    if libc.setns(namespace, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    Wire([open_device(name) for name in sys.argv[1:]]).run(sys.stdin.fileno())
