"""Families of processes: all that one process has started, found by a mark in their environment."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from pathlib import Path

MARK = "VAETRAIN_FAMILY"  # environment variable that all processes of a family inherit


def new_mark() -> str:
    """Return a new mark; it belongs to the family of this process, if this process has a mark."""
    return "/".join([*filter(None, [os.environ.get(MARK)]), uuid.uuid4().hex])


def family(mark: str) -> dict[int, int]:
    """Return the living processes with this mark or one inside it, each with its parent.

    Sessions cannot be used for this: the launcher of torch gives every rank its own session.
    """
    own = f"{MARK}={mark}".encode()
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path("/proc", entry, "environ").read_bytes().split(b"\0")
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue  # the process has just ended, or belongs to another user
        is_member = any(pair == own or pair.startswith(own + b"/") for pair in environment)
        if is_member and fields[0] != "Z":
            found[int(entry)] = int(fields[1])
    return found


def ranks(mark: str, launcher: int) -> dict[int, int]:
    """Return the process ids of the ranks of a launcher, by rank."""
    found = {}
    for process in (child for child, parent in family(mark).items() if parent == launcher):
        try:
            environment = Path("/proc", str(process), "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = [pair.partition(b"=")[2] for pair in environment if pair.startswith(b"RANK=")]
        if rank:
            found[int(rank[0])] = process
    return found


def kill_family(mark: str) -> None:
    """Kill all processes of a family by SIGKILL, except this one."""
    while members := set(family(mark)) - {os.getpid()}:
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        time.sleep(0.01)
