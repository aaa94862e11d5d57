"""SHA-256 checks of shards, remembered for all processes of a machine."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from shards.atomic_files import sha256_of

LIFETIME = 86_400.0  # seconds for which a check is remembered, so bad disks are found within a day
_SETTLED = 2.0  # seconds; a file changed within a tick of the clock may keep its time of change


class CheckedFiles:
    """Files whose SHA-256 was found to be right, by this process or another one of the machine.

    A check is remembered as a small file, whose name depends on the file's inode, size and times of
    change, and on the SHA-256. So a file that was written to or replaced is hashed again. One
    process hashes a file while the others wait; the kernel releases the lock of a dead process.

    Args:
        folder: folder of the memory; None: one of this user in the machine's folder for temporary
            files. Without a folder that only this user can write to, nothing is remembered.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.gettempdir()) / f"vaetrain-checked-{os.getuid()}"
        self._is_usable: bool | None = None

    def __reduce__(self) -> tuple:
        return CheckedFiles, (self.folder,)

    def has_sha256(self, file: io.FileIO, sha256: str) -> bool:
        """Return whether an open file has this SHA-256 (hexadecimal); it may be hashed for that."""
        before, now = os.fstat(file.fileno()), time.time()
        with self._locked(before, sha256) as memory:
            if memory is not None and _is_valid(memory, now):
                return True
            file.seek(0)
            if sha256_of(file) != sha256:
                return False
            after = os.fstat(file.fileno())
            has_settled = now - before.st_ctime > _SETTLED
            if memory is not None and has_settled and _identity(before) == _identity(after):
                with contextlib.suppress(OSError):  # a full disk
                    os.pwrite(memory, b"1", 0)
            return True

    def remember(self, file: io.FileIO, sha256: str) -> None:
        """Note that an open file has this SHA-256, as this process hashed it while writing it."""
        with self._locked(os.fstat(file.fileno()), sha256) as memory:
            if memory is not None:
                with contextlib.suppress(OSError):  # a full disk
                    os.pwrite(memory, b"1", 0)

    @contextlib.contextmanager
    def _locked(self, status: os.stat_result, sha256: str) -> Iterator[int | None]:
        """Hold the exclusive lock of a file's memory; give its descriptor, or None without one."""
        name = hashlib.sha256(repr((sha256, _identity(status))).encode()).hexdigest()
        memory = None
        try:
            if self._usable():
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                with contextlib.suppress(OSError):  # a full disk, or no locks on it
                    memory = os.open(self.folder / name, flags, 0o600)
                    fcntl.flock(memory, fcntl.LOCK_EX)
            yield memory
        finally:
            if memory is not None:
                os.close(memory)

    def _usable(self) -> bool:
        """Return whether the folder is usable; at first create it and remove what is outdated."""
        if self._is_usable is None:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                status = self.folder.lstat()
                private = status.st_uid == os.getuid() and status.st_mode & 0o170077 == 0o040000
                self._is_usable = private
            except OSError:
                self._is_usable = False
            if self._is_usable:
                self._remove_outdated()
        return self._is_usable

    def _remove_outdated(self) -> None:
        oldest = time.time() - LIFETIME
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.folder):
                with contextlib.suppress(FileNotFoundError):  # another process was first
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(entry)


def _is_valid(memory: int, now: float) -> bool:
    status = os.fstat(memory)
    return status.st_size > 0 and now - status.st_mtime < LIFETIME


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Return values of which at least one differs once a file is written to or replaced."""
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, *times
