"""Reader processes: any failure of theirs is reported within seconds, in one line."""

from __future__ import annotations

import contextlib
import errno
import mmap
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from multiprocessing import forkserver
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from shards.errors import DamagedShards, ReaderFailed
from shards.reading import reader_processes
from shards.reading.batch import Batch
from shards.reading.reader_processes import read_batches, reason_of_end
from tests.support.commands import run_python

COUNT, BAD = 6, 3
SECONDS = 20  # in which a failure is reported, on a busy machine too


class Lock:
    """Object that cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class UnpicklableError(Exception):
    """Exception that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("about a lock", Lock())


def raise_error(error: BaseException) -> None:
    """Raise an error, as an expression."""
    raise error


def read_past_the_end() -> None:
    """Read a mapped page of a file that was cut short, which raises SIGBUS."""
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        file.truncate(0)
        mapped[0]


def use_all_descriptors() -> None:
    """Open files until the limit of this process is reached."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    files = []
    while True:
        files.append(open(os.devnull))  # noqa: SIM115 (kept open)


FAULTS = {
    "killed": (
        lambda: os.kill(os.getpid(), signal.SIGKILL),
        "a reader process was killed, probably for lack of memory; lower data.workers",
    ),
    "sigbus": (read_past_the_end, r"SIGBUS: shared memory is full \(see df /dev/shm.*workers=0"),
    "sigsegv": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "died of SIGSEGV"),
    "status": (lambda: os._exit(3), "ended with status 3"),
    "exit": (lambda: sys.exit("leaving"), "failed: SystemExit: leaving"),
    "descriptors": (use_all_descriptors, r"Too many open files; raise the limit .*ulimit -n"),
    "disk": (lambda: raise_error(OSError(errno.ENOSPC, "No space", "/x/y")), "/x/y: No space; "),
    "memory": (lambda: raise_error(MemoryError()), "out of memory; lower data.workers"),
    "error": (lambda: raise_error(ZeroDivisionError("a\nb")), r"failed: ZeroDivisionError: a\\nb"),
    "unpicklable-error": (lambda: raise_error(UnpicklableError()), "failed: UnpicklableError: "),
    "unpicklable-batch": (Lock, "failed: TypeError: cannot pickle"),
    "damage": (lambda: raise_error(DamagedShards("x.tar: is damaged")), r"^x\.tar: is damaged$"),
}


class Pages:
    """Dataset whose batch `BAD` fails; the others hold their number."""

    def __init__(self, fault: str | None = None, rows: int = 1) -> None:
        self.fault, self.rows = fault, rows
        index = SimpleNamespace(check_unchanged=lambda: None)
        self.collator = SimpleNamespace(files=SimpleNamespace(index=index))

    def __reduce__(self) -> tuple:
        return type(self), (self.fault, self.rows)

    def __getitem__(self, number: int) -> object:
        if number == BAD and self.fault is not None:
            return FAULTS[self.fault][0]()
        return a_batch(number, self.rows)


class UnreadablePages(Pages):
    """Dataset that a reader process cannot open."""

    def __reduce__(self) -> tuple:
        return raise_error, (DamagedShards("index.json: is damaged"),)


def a_batch(number: int, rows: int) -> Batch:
    """Return a batch of one page of `rows` x 1024 pixels."""
    one = torch.full((1,), number)
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(256, (1, 1, rows, 1024), generator=generator, dtype=torch.uint8)
    return Batch(one, one, one, (rows, 1024), one, torch.ones(1, 2), pixels=pixels)


@contextlib.contextmanager
def limit(seconds: float):
    """Assert that the context ends in time and leaves no reader process."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds
    assert not multiprocessing.active_children()


@pytest.fixture(scope="module", autouse=True)
def server():
    """Start the fork server, whose imports are no part of the times that are measured."""
    assert len(list(read_batches(Pages(), range(1), workers=1, prefetch=1))) == 1


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_is_reported_in_one_line_within_seconds(fault, workers):
    error = DamagedShards if fault == "damage" else ReaderFailed
    seen = []
    with limit(SECONDS), pytest.raises(error, match=FAULTS[fault][1]) as refusal:
        seen.extend(
            int(batch.ids)
            for batch in read_batches(Pages(fault), range(COUNT), workers=workers, prefetch=2)
        )
    assert "\n" not in str(refusal.value)
    assert seen == list(range(BAD))


def test_shards_that_a_reader_cannot_open_are_named():
    with limit(SECONDS), pytest.raises(DamagedShards, match=r"^index\.json: is damaged$"):
        next(read_batches(UnreadablePages(), range(COUNT), workers=1, prefetch=1))


class SlowPages(Pages):
    """Dataset whose batch `BAD` takes for ever."""

    def __getitem__(self, number: int) -> object:
        if number == BAD:
            time.sleep(1000)
        return super().__getitem__(number)


def test_a_reader_that_hangs_is_reported_after_the_timeout(monkeypatch):
    monkeypatch.setattr(reader_processes, "END_SECONDS", 0.2)
    reason = r"has made no batch for 4 s; raise train\.timeout_seconds, or set data\.workers=0"
    with limit(SECONDS), pytest.raises(ReaderFailed, match=reason):
        list(read_batches(SlowPages(), range(COUNT), workers=1, prefetch=1, patience=4.0))


def test_a_reader_that_never_starts_is_reported(monkeypatch):
    """The fork server is stopped: it neither starts a process nor refuses to."""
    monkeypatch.setattr(reader_processes, "END_SECONDS", 0.2)
    monkeypatch.setattr(reader_processes, "START_SECONDS", 1.0)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        with pytest.raises(ReaderFailed, match=r"has not started within 1 s; .*data\.workers=0"):
            next(read_batches(Pages(), range(COUNT), workers=1, prefetch=1))
        assert time.monotonic() - begun < SECONDS
    finally:
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGCONT)


def test_no_descriptor_for_a_reader_names_the_limit():
    lowest_free = os.dup(0)
    os.close(lowest_free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        with (
            limit(SECONDS),
            pytest.raises(ReaderFailed, match=r"ulimit -n\), or set data\.workers"),
        ):
            next(read_batches(Pages(), range(COUNT), workers=1, prefetch=1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("workers", [1, 3])
def test_large_batches_arrive_unchanged_and_in_order(workers):
    """A batch of 8 MB is many times what a socket holds."""
    batches = list(read_batches(Pages(None, 8192), range(COUNT), workers=workers, prefetch=2))
    for number, batch in enumerate(batches):
        assert torch.equal(batch.pixels, a_batch(number, 8192).pixels)
        assert batch.pixels.data_ptr() % 16 == 0


def test_readers_end_with_an_iterator_that_is_closed_early():
    batches = read_batches(Pages(None, 8192), range(1000), workers=2, prefetch=2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    with limit(SECONDS):
        batches.close()


def test_a_program_that_fails_while_it_reads_ends():
    """Its readers ignore SIGTERM, so an exit that waits for them would take for ever."""
    code = (
        "from shards.reading.reader_processes import read_batches\n"
        "from tests.shards.reading.test_reader_processes import Pages\n"
        "batches = read_batches(Pages(None, 8192), range(1000), workers=1, prefetch=1)\n"
        "next(batches)\n"
        "raise ValueError('on purpose')\n"
    )
    done = run_python("-c", code, timeout=100)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: on purpose"


def test_every_signal_and_status_has_a_reason():
    codes = [None, 1, 255, *(-number for number in signal.Signals)]
    for code in codes:
        assert "\n" not in reason_of_end(code)
        assert "data.workers" in reason_of_end(code)


def test_batches_without_reader_processes_are_the_same():
    alone = list(read_batches(Pages(), range(COUNT), workers=0, prefetch=1))
    together = list(read_batches(Pages(), range(COUNT), workers=2, prefetch=1))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.pixels.numpy(), other.pixels.numpy())
        assert torch.equal(one.ids, other.ids)
