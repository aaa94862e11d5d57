"""Whole shards of a server in a bounded folder on this machine, shared by all of its processes.

A shard's file is named by its SHA-256, so any run and any address may use it, and one that was
replaced on the server is another file. Files appear whole, by rename, and only with the bytes of
their name. A fetch holds a lock, so a shard is fetched once; the kernel lets go of the locks of a
process that dies. The least recently used files are removed to make room; who still reads one keeps
it open, and sees nothing of that.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.errors import DamagedShards
from shards.format.index import HEADER_NAME, TABLE_NAME, Shard, header_bytes
from shards.location import parse_location, require_driver
from shards.remote.client import Damaged, Remote
from shards.storage import sha256_of

SHARD, LOCK = ".tar", ".lock"
_OURS = "[0-9a-f]" * 64  # the names of our files for `glob`: a folder may hold others' tars, too
_POLL = 0.05  # seconds until a full cache is looked at again


@dataclass(frozen=True)
class CacheOptions:
    """Where a machine keeps what it fetched, and how long it tries to.

    Attributes:
        folder: None: `vaetrain` in $XDG_CACHE_HOME or ~/.cache.
        gigabytes: of shards, at most; a shard larger than that is kept alone.
        patience: seconds for which a fetch that fails is tried again.
    """

    folder: str | None = None
    gigabytes: float = 50.0
    patience: float = 300.0

    @property
    def path(self) -> Path:
        """The folder."""
        if self.folder is not None:
            return Path(self.folder)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaetrain"

    @property
    def bytes(self) -> int:
        """The bound, in bytes."""
        return int(self.gigabytes * 1e9)


def fetch_index(remote: Remote, options: CacheOptions) -> Path:
    """A local folder with the verified index of a folder on a server.

    Raises DamagedShards naming the address and the reason.
    """
    header = remote.read(HEADER_NAME)
    try:
        told = json.loads(header)
        is_whole = isinstance(told, dict) and header_bytes(told) == header
    except (ValueError, RecursionError):
        is_whole = False
    if not is_whole:
        raise DamagedShards(f"{remote.address(HEADER_NAME)}: is damaged: it fails its own checksum")
    folder = options.path / f"index-{hashlib.sha256(header).hexdigest()}"
    if folder.is_dir():
        return folder
    try:
        options.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.path, prefix=".index-") as name:
            draft = Path(name)
            (draft / HEADER_NAME).write_bytes(header)

            def attempt() -> None:
                remote.fetch(TABLE_NAME, draft / TABLE_NAME)
                if sha256_of(draft / TABLE_NAME) != told.get("table_sha256"):
                    raise Damaged("its SHA-256 is not the one in the header")

            remote.retrying(TABLE_NAME, attempt)
            whole = draft / "whole"
            whole.mkdir()
            for part in (HEADER_NAME, TABLE_NAME):
                (draft / part).rename(whole / part)
            try:
                whole.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was first, with the same bytes
                    raise
    except OSError as error:
        raise DamagedShards(f"{options.path}: cannot be written ({error.strerror})") from error
    return folder


def open_cache(location: str, options: CacheOptions | None) -> tuple[Path, ShardCache]:
    """The local folder of an address' index, and the cache of its shards.

    Raises UserError where the address cannot be read here, DamagedShards where its index cannot.
    """
    require_driver(parse_location(location), location)
    options = CacheOptions() if options is None else options
    remote = Remote(location.rstrip("/"), options.patience)
    return fetch_index(remote, options), ShardCache(remote, options)


class ShardCache:
    """The shards of one folder on a server, as local files.

    Attributes:
        remote: the folder.
        options: where files are kept, and how many of them.
    """

    def __init__(self, remote: Remote, options: CacheOptions) -> None:
        self.remote = remote
        self.options = options
        self.folder = options.path
        self._whole: set[str] = set()  # names whose bytes this process has checked
        self._plan: list[Shard] = []
        self._planned = threading.Event()
        self._prefetcher: threading.Thread | None = None

    def __reduce__(self) -> tuple:
        return ShardCache, (self.remote, self.options)

    def open(self, shard: Shard) -> io.FileIO:
        """An open file with a shard's bytes, checked once a process, fetched if need be.

        Raises DamagedShards naming the shard's address and what is wrong.
        """
        path = self._path(shard)
        while True:
            try:
                file = io.FileIO(path)
            except FileNotFoundError:
                self.remote.retrying(shard.name, lambda: self._fetch(shard))
                continue  # a full cache may have lost it again
            except OSError as error:
                raise DamagedShards(f"{path}: cannot be opened ({error.strerror})") from error
            os.utime(file.fileno())
            if shard.sha256 in self._whole or sha256_of(file) == shard.sha256:
                self._whole.add(shard.sha256)
                file.seek(0)
                return file
            file.close()
            path.unlink(missing_ok=True)  # the disk has lost something; the server has it

    def prefetch(self, shards: Iterable[Shard]) -> None:
        """Fetch shards in the background, in the order they will be needed, as many as have room.

        What was planned before and has not begun is forgotten. What cannot be had is left to
        `open`, which says why.
        """
        plan, seen, size = [], set(), 0
        for shard in shards:
            size += shard.bytes * (shard.sha256 not in seen)
            if size > self.options.bytes or len(plan) > 2 * len(seen):
                break
            seen.add(shard.sha256)
            plan.append(shard)
        # The soonest is the most recently used.
        for shard in reversed(plan):
            try:
                os.utime(self._path(shard))
            except OSError:
                continue  # not there yet
        self._plan = plan
        self._planned.set()
        if self._prefetcher is None:
            self._prefetcher = threading.Thread(target=self._prefetch, daemon=True)
            self._prefetcher.start()

    def _prefetch(self) -> None:
        while True:
            self._planned.wait()
            self._planned.clear()
            for shard in self._plan:
                if self._planned.is_set():
                    break
                if self._path(shard).exists():
                    continue
                try:
                    self.remote.retrying(shard.name, lambda shard=shard: self._fetch(shard, False))
                except DamagedShards:
                    continue

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}{SHARD}"

    def _fetch(self, shard: Shard, wait: bool = True) -> None:
        """One attempt to have a shard's file; without `wait` none where another process fetches."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(shard)
        # The size in the name is what others have to leave free.
        lock = self.folder / f"{shard.sha256}.{shard.bytes}{LOCK}"
        with _locked(lock, wait) as held:
            if held is None or path.exists():
                return
            self._make_room(shard, lock, held)
            part = _part(lock)
            try:
                self.remote.fetch(shard.name, part)
                if part.stat().st_size != shard.bytes or sha256_of(part) != shard.sha256:
                    raise Damaged("is damaged: its SHA-256 is not the index's")
                self._whole.add(shard.sha256)
                part.rename(path)
            finally:
                part.unlink(missing_ok=True)

    def _make_room(self, shard: Shard, lock: Path, held: int) -> None:
        """Remove files until a shard has its place within the bound, beside what others fetch."""
        while True:
            with _locked(self.folder / f"room{LOCK}", keep=True):
                coming = self._sizes_coming(lock)
                files = sorted(self._files(), key=lambda file: file[1].st_mtime_ns)
                size = shard.bytes + sum(coming) + sum(stat.st_size for _, stat in files)
                while size > self.options.bytes and files:
                    path, stat = files.pop(0)
                    path.unlink(missing_ok=True)
                    size -= stat.st_size
                if size <= self.options.bytes or not coming:
                    os.pwrite(held, b"fetching", 0)  # from now on others count it
                    return
            time.sleep(_POLL)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob(f"{_OURS}{SHARD}"):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()

    def _sizes_coming(self, ours: Path) -> list[int]:
        """The sizes of what others fetch; what a process left that died is removed."""
        sizes = []
        for path in self.folder.glob(f"{_OURS}.*{LOCK}"):
            if path == ours:
                continue
            with _locked(path, wait=False) as abandoned:
                if abandoned is not None:
                    _part(path).unlink(missing_ok=True)
                elif _has_room(path):
                    sizes.append(int(path.suffixes[-2][1:]))
        return sizes


def _part(lock: Path) -> Path:
    return lock.with_suffix(".part")


def _has_room(lock: Path) -> bool:
    try:
        return lock.stat().st_size > 0
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _locked(path: Path, wait: bool = True, keep: bool = False) -> Iterator[int | None]:
    """Hold a file's lock; the open file, or None where another holds it and `wait` is false.

    The file is removed in the end unless it is to `keep`.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield None
                return
            if not _is_at(path, file):
                continue  # who held it has removed it: this is a lock on nothing
            os.ftruncate(file, 0)
            try:
                yield file
            finally:
                if not keep:
                    path.unlink(missing_ok=True)
            return
        finally:
            os.close(file)


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
