"""Network namespaces as machines: each has its own addresses, and sees the other one only.

Needs root on Linux. The two are connected by a veth pair (`cable`) or by a TUN device each, whose
packets a program passes on (`link.SlowLink`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from shards.errors import UserError

ADDRESSES = ("10.213.7.1", "10.213.7.2")
DEVICE = "cable"  # of each machine
CONFIGURATION = Path("/etc/netns")
LAUNCHER = str(Path(__file__).resolve().parents[3] / "launch" / "multinode.sh")


class NoNamespaces(UserError):
    """Network namespaces or their devices cannot be made here; the message is one line."""


@contextlib.contextmanager
def two_machines() -> Iterator[list[str]]:
    """Give the names of two network namespaces that are not connected; raises NoNamespaces."""
    names = [f"vaetrain-{os.getpid()}-{number}" for number in (0, 1)]
    try:
        for name in names:
            _ip("netns", "add", name)
            # `ip netns exec` mounts it as /etc/hosts. Without a network, looking up a name that is
            # missing there takes minutes.
            hosts = CONFIGURATION / name / "hosts"
            hosts.parent.mkdir(parents=True)
            lines = ("127.0.0.1 localhost", *map(" ".join, zip(ADDRESSES, names, strict=True)))
            hosts.write_text("\n".join(lines) + "\n")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
            shutil.rmtree(CONFIGURATION / name, ignore_errors=True)


def connect(machines: Sequence[str]) -> None:
    """Connect two machines by a veth pair; raises NoNamespaces."""
    other = ("type", "veth", "peer", "name", DEVICE, "netns", machines[1])
    _ip("link", "add", DEVICE, "netns", machines[0], *other)
    set_up_devices(machines)


def set_up_devices(machines: Sequence[str], *options: str) -> None:
    """Give the devices of both machines their addresses and `ip`'s options; raises NoNamespaces."""
    for name, address in zip(machines, ADDRESSES, strict=True):
        inside = ("-n", name)
        _ip(*inside, "address", "add", f"{address}/24", "dev", DEVICE)
        _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "link", "set", DEVICE, *options, "up")


def launch_command(
    machines: Sequence[str], number: int, engine: str, processes: int, arguments: Sequence[str]
) -> list[str]:
    """Return the command that starts the ranks of one machine.

    Args:
        engine, processes: see launch/multinode.sh.
        arguments: of the trainer.
    """
    share = ["--machines", str(len(machines)), "--rank", str(number), "--engine", engine]
    share += ["--processes", str(processes), "--main-address", ADDRESSES[0], "--interface", DEVICE]
    return ["ip", "netns", "exec", machines[number], LAUNCHER, *share, *arguments]


def launch_path() -> str:
    """Return the PATH with which launch/multinode.sh finds Accelerate."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def _ip(*arguments: str) -> None:
    """Run a command of `ip`; raises NoNamespaces."""
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NoNamespaces("no command `ip`; install iproute2") from error
    if done.returncode:
        reason = done.stderr.strip().partition("\n")[0]
        raise NoNamespaces(f"ip {' '.join(arguments)}: {reason}; root on Linux can run it")
