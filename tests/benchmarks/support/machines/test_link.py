"""Packets on a link: delayed, in order, at a limited rate, lost or turned into resets."""

import os
import struct

import pytest

from benchmarks.support.machines.link import RESET, TCP, Wire, as_reset, checksum


class Ends:
    """Two ends of a wire, as pipes."""

    def __init__(self):
        self.pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(2)]
        self.wire = Wire([write for _, write in self.pipes])

    def received(self, direction):
        """Return what has arrived of a direction."""
        try:
            return os.read(self.pipes[1 - direction][0], 1 << 16)
        except BlockingIOError:
            return b""


@pytest.fixture
def ends():
    ends = Ends()
    yield ends
    for pipe in ends.pipes:
        for file in pipe:
            os.close(file)


def test_packets_arrive_after_the_delay_and_their_time_on_the_wire(ends):
    ends.wire.obey("set 0.5 100")
    ends.wire.take(0, bytes(20), 10.0)  # has left at 10.2, arrives at 10.7
    ends.wire.take(0, bytes(30), 10.1)  # waits for the first one, leaves at 10.5
    ends.wire.take(1, bytes(40), 10.0)
    arrived = []
    for now in (10.69, 10.71, 10.99, 11.01):
        ends.wire.deliver(0, now)
        arrived.append(len(ends.received(0)))
    assert arrived == [0, 20, 0, 30]
    assert ends.received(1) == b""
    ends.wire.deliver(1, 10.91)
    assert len(ends.received(1)) == 40


def test_a_cut_link_loses_packets_on_their_way_and_new_ones(ends):
    ends.wire.take(0, b"on its way", 1.0)
    ends.wire.obey("cut")
    ends.wire.take(0, b"new", 1.0)
    ends.wire.obey("pass")
    ends.wire.take(0, b"later", 2.0)
    ends.wire.deliver(0, 3.0)
    assert ends.received(0) == b"later"


def segment(data=b"data", protocol=TCP):
    """Return a packet of IPv4; of TCP with sequence number 7."""
    tcp = struct.pack("!HHIIBBHHH", 80, 5000, 7, 9, 5 << 4, 0x18, 100, 0, 0) + data
    ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, protocol, 0))
    ip += bytes((10, 0, 0, 1, 10, 0, 0, 2))
    ip[10:12] = checksum(ip)
    return bytes(ip) + tcp


def test_a_segment_becomes_a_reset_with_right_checksums():
    reset = as_reset(segment())
    assert len(reset) == struct.unpack("!H", reset[2:4])[0] == 40
    assert struct.unpack("!I", reset[24:28])[0] == 7
    assert reset[33] == RESET
    # The checksum over data with a right checksum is zero.
    assert checksum(reset[:20]) == b"\0\0"
    assert checksum(reset[12:20] + struct.pack("!HH", TCP, 20) + reset[20:]) == b"\0\0"


@pytest.mark.parametrize("packet", [segment(protocol=17), bytes([0x60]) + bytes(50)])
def test_other_packets_are_passed_unchanged(ends, packet):
    ends.wire.obey("reset")
    ends.wire.take(0, packet, 1.0)
    ends.wire.deliver(0, 2.0)
    assert ends.received(0) == packet


def test_the_checksum_is_that_of_the_rfc():
    # RFC 1071, section 3: the sum of these words is ddf2.
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == bytes.fromhex("220d")
