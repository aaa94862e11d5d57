"""Local cache of shards: a folder of bounded size, shared by all processes of a machine.

The file of a shard is named by its SHA-256, so all runs and addresses share it, and a shard that
was replaced on the server is another file. A file is renamed to its name only after its SHA-256 was
verified, and it is not hashed again on this machine that day. A fetch holds a lock, so a shard is
fetched once; the kernel releases the locks of a dead process. The least recently used files are
removed to make room; a process that still reads one has it open and is not affected.
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

from shards.atomic_files import sha256_of
from shards.errors import DamagedShards
from shards.format.index import HEADER_NAME, TABLE_NAME, Shard, header_bytes
from shards.location import parse_location, require_driver
from shards.reading.checked_files import CheckedFiles
from shards.remote.client import DamagedFile, Remote

# Besides shards and locks there is an empty file that tells by its time when a shard was last used.
# The time of the shard itself would do, but it has to stay, as a changed file is hashed again.
SHARD, LOCK, USED = ".tar", ".lock", ".used"
_NAMES = "[0-9a-f]" * 64  # `glob` pattern of the cache's files; the folder may hold other tars
_POLL = 0.05  # seconds between two attempts to make room in a full cache


@dataclass(frozen=True)
class CacheOptions:
    """Settings of the cache and of fetching.

    Attributes:
        folder: folder of the cache; None: `vaetrain` in $XDG_CACHE_HOME or ~/.cache.
        gigabytes: largest size of all shards; a single shard that is larger is kept alone.
        patience: seconds for which a failing fetch is retried.
    """

    folder: str | None = None
    gigabytes: float = 50.0
    patience: float = 300.0

    @property
    def path(self) -> Path:
        """Folder of the cache."""
        if self.folder is not None:
            return Path(self.folder)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaetrain"

    @property
    def bytes(self) -> int:
        """Largest size of all shards in bytes."""
        return int(self.gigabytes * 1e9)


def fetch_index(remote: Remote, options: CacheOptions) -> Path:
    """Fetch and verify the index of a folder on a server; return the local folder with it.

    Raises DamagedShards naming the address and the reason.
    """
    header = remote.read(HEADER_NAME)
    try:
        entries = json.loads(header)
        is_valid = isinstance(entries, dict) and header_bytes(entries) == header
    except (ValueError, RecursionError):
        is_valid = False
    if not is_valid:
        raise DamagedShards(
            f"{remote.address(HEADER_NAME)}: is damaged: its own checksum does not match"
        )
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
                if sha256_of(draft / TABLE_NAME) != entries.get("table_sha256"):
                    raise DamagedFile(f"SHA-256 differs from {HEADER_NAME}")

            remote.retrying(TABLE_NAME, attempt)
            verified = draft / "verified"
            verified.mkdir()
            for part in (HEADER_NAME, TABLE_NAME):
                (draft / part).rename(verified / part)
            try:
                verified.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process was first, with the same bytes
                    raise
    except OSError as error:
        raise DamagedShards(f"{options.path}: cannot be written ({error.strerror})") from error
    return folder


def open_cache(location: str, options: CacheOptions | None) -> tuple[Path, ShardCache]:
    """Return the local folder of the index of an address, and the cache of its shards.

    Raises UserError if the address is not supported or has no driver installed, and DamagedShards
    if its index is damaged or cannot be fetched.
    """
    require_driver(parse_location(location), location)
    options = CacheOptions() if options is None else options
    remote = Remote(location.rstrip("/"), options.patience)
    return fetch_index(remote, options), ShardCache(remote, options)


class ShardCache:
    """Cache of the shards of one folder on a server, as local files.

    Attributes:
        remote: folder on the server.
        options: folder and size of the cache.
        checked: memory of the shards' checks.
    """

    def __init__(
        self, remote: Remote, options: CacheOptions, checked: CheckedFiles | None = None
    ) -> None:
        self.remote = remote
        self.options = options
        self.checked = checked or CheckedFiles()
        self.folder = options.path
        self._verified: set[str] = set()  # SHA-256s that this process has verified
        self._plan: list[Shard] = []
        self._planned = threading.Event()
        self._prefetcher: threading.Thread | None = None

    def __reduce__(self) -> tuple:
        return ShardCache, (self.remote, self.options, self.checked)

    def open(self, shard: Shard) -> io.FileIO:
        """Open a shard; fetch it if it is missing, and verify it, see `CheckedFiles`.

        Raises DamagedShards naming the shard's address and the fault.
        """
        path = self._path(shard)
        while True:
            try:
                file = io.FileIO(path)
            except FileNotFoundError:
                self.remote.retrying(shard.name, lambda: self._fetch(shard))
                continue  # a full cache may have removed it again
            except OSError as error:
                raise DamagedShards(f"{path}: cannot be opened ({error.strerror})") from error
            self._note_use(path)
            if shard.sha256 in self._verified or self.checked.has_sha256(file, shard.sha256):
                self._verified.add(shard.sha256)
                file.seek(0)
                return file
            file.close()
            path.unlink(missing_ok=True)  # damaged on this disk; it is fetched again

    def prefetch(self, shards: Iterable[Shard]) -> None:
        """Fetch shards in the background, in the order of their use, as many as fit in the cache.

        Replaces the plan of an earlier call, except for the fetch in progress. Failures are
        ignored here; `open` reports them.
        """
        plan, seen, size = [], set(), 0
        for shard in shards:
            size += shard.bytes * (shard.sha256 not in seen)
            if size > self.options.bytes or len(plan) > 2 * len(seen):
                break
            seen.add(shard.sha256)
            plan.append(shard)
        # The shard that is needed first counts as the most recently used.
        for shard in reversed(plan):
            if self._path(shard).exists():
                self._note_use(self._path(shard))
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
        """Try once to fetch a shard; without `wait`, skip it if another process fetches it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(shard)
        # The size in the name is the room that other processes have to reserve.
        lock = self.folder / f"{shard.sha256}.{shard.bytes}{LOCK}"
        with _exclusive_lock(lock, wait) as lock_file:
            if lock_file is None or path.exists():
                return
            self._make_room(shard, lock, lock_file)
            part = _part(lock)
            try:
                self.remote.fetch(shard.name, part)
                if part.stat().st_size != shard.bytes or sha256_of(part) != shard.sha256:
                    raise DamagedFile(f"is damaged: SHA-256 differs from {HEADER_NAME}")
                self._verified.add(shard.sha256)
                self._note_use(path)
                # Opened before it has its name: a full cache may remove it at once.
                with io.FileIO(part) as file:
                    part.rename(path)
                    self.checked.remember(file, shard.sha256)
            finally:
                part.unlink(missing_ok=True)

    def _make_room(self, shard: Shard, lock: Path, lock_file: int) -> None:
        """Remove files until a shard fits beside the shards that other processes fetch."""
        while True:
            with _exclusive_lock(self.folder / f"room{LOCK}", keep=True):
                pending = self._pending_sizes(lock)
                files = sorted(self._files())
                size = shard.bytes + sum(pending) + sum(length for _, length, _ in files)
                while size > self.options.bytes and files:
                    _, length, path = files.pop(0)
                    path.unlink(missing_ok=True)
                    path.with_suffix(USED).unlink(missing_ok=True)
                    size -= length
                if size <= self.options.bytes or not pending:
                    os.pwrite(lock_file, b"fetching", 0)  # other processes now reserve room for it
                    return
            time.sleep(_POLL)

    def _note_use(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # a full disk: another shard may be removed first
            path.with_suffix(USED).touch()

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """Yield time of the last use in ns, size and path of the shards."""
        for path in self.folder.glob(f"{_NAMES}{SHARD}"):
            with contextlib.suppress(FileNotFoundError):
                used = status = path.stat()
                with contextlib.suppress(FileNotFoundError):  # a cache of an older version
                    used = path.with_suffix(USED).stat()
                yield used.st_mtime_ns, status.st_size, path

    def _pending_sizes(self, own: Path) -> list[int]:
        """Return the sizes of shards that others fetch; remove partial files of dead processes."""
        sizes = []
        for path in self.folder.glob(f"{_NAMES}.*{LOCK}"):
            if path == own:
                continue
            with _exclusive_lock(path, wait=False) as abandoned:
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
def _exclusive_lock(path: Path, wait: bool = True, keep: bool = False) -> Iterator[int | None]:
    """Hold the exclusive lock of a file; give its descriptor, or None if it is taken (no `wait`).

    The file is removed at the end unless `keep` is true.
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
                continue  # its last holder has removed it, so this lock is void
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
