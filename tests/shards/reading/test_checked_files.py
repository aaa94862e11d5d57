"""A shard is hashed once per machine, and again once it has changed."""

import hashlib
import io
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.reading import checked_files
from shards.reading.checked_files import LIFETIME, CheckedFiles

CONTENT = b"the bytes of a shard"
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def shard(tmp_path, monkeypatch) -> Path:
    """A file that counts as unchanged for long enough."""
    monkeypatch.setattr(checked_files, "_SETTLED", -1.0)
    path = tmp_path / "shard.tar"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def hashed(monkeypatch) -> list[int]:
    """One entry for each file that is hashed."""
    entries = []

    def slow_sha256(file):
        entries.append(file.fileno())
        time.sleep(0.02)
        return hashlib.sha256(file.read()).hexdigest()

    monkeypatch.setattr(checked_files, "sha256_of", slow_sha256)
    return entries


def is_right(path: Path, folder: Path, sha256: str = SHA) -> bool:
    """Check a file as a new process would."""
    with io.FileIO(path) as file:
        return CheckedFiles(folder).has_sha256(file, sha256)


def test_processes_that_start_together_hash_a_file_once(shard, hashed, tmp_path):
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda _: is_right(shard, tmp_path / "checked"), range(6)))
    assert len(hashed) == 1


def test_a_file_that_its_writer_has_hashed_is_not_hashed_again(shard, hashed, tmp_path):
    folder = tmp_path / "checked"
    with io.FileIO(shard) as file:
        CheckedFiles(folder).remember(file, SHA)
    assert is_right(shard, folder)
    assert not hashed
    time.sleep(0.01)  # more than a tick of the file system's clock
    shard.write_bytes(CONTENT[::-1])
    assert not is_right(shard, folder)


@pytest.mark.parametrize("change", ["in place", "replaced", "another time"])
def test_a_changed_file_is_hashed_again(shard, hashed, tmp_path, change):
    folder = tmp_path / "checked"
    assert is_right(shard, folder)
    status = shard.stat()
    time.sleep(0.01)  # more than a tick of the file system's clock
    damaged = CONTENT.replace(b"bytes", b"bites")
    if change == "in place":
        shard.write_bytes(damaged)
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert not is_right(shard, folder)
    elif change == "replaced":
        (tmp_path / "new").write_bytes(damaged)
        (tmp_path / "new").replace(shard)
        assert not is_right(shard, folder)
    else:
        os.utime(shard)
        assert is_right(shard, folder)
    assert len(hashed) == 2


def test_a_damaged_file_is_refused_by_every_process(shard, hashed, tmp_path):
    wrong = "0" * 64
    assert not is_right(shard, tmp_path / "checked", wrong)
    assert not is_right(shard, tmp_path / "checked", wrong)
    assert len(hashed) == 2


def test_a_check_is_remembered_for_a_day(shard, hashed, tmp_path):
    folder = tmp_path / "checked"
    running, file = CheckedFiles(folder), io.FileIO(shard)
    assert running.has_sha256(file, SHA)
    [memory] = folder.iterdir()
    old = time.time() - LIFETIME - 1
    os.utime(memory, (old, old))
    assert running.has_sha256(file, SHA)
    assert len(hashed) == 2
    os.utime(memory, (old, old))
    (tmp_path / "other.tar").write_bytes(CONTENT)
    assert is_right(tmp_path / "other.tar", folder)
    assert not memory.exists()  # a new process removes what is outdated


def test_a_file_that_changed_just_now_is_not_remembered(shard, hashed, tmp_path, monkeypatch):
    monkeypatch.setattr(checked_files, "_SETTLED", 60.0)
    assert is_right(shard, tmp_path / "checked")
    assert is_right(shard, tmp_path / "checked")
    assert len(hashed) == 2


@pytest.mark.parametrize("fault", ["writable by others", "a link", "a file"])
def test_a_folder_that_others_may_write_to_is_not_used(shard, hashed, tmp_path, fault):
    folder = tmp_path / "checked"
    if fault == "a file":
        folder.write_text("")
    elif fault == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    assert is_right(shard, folder)
    assert is_right(shard, folder)
    assert len(hashed) == 2


def test_reader_processes_use_the_same_folder(tmp_path):
    assert pickle.loads(pickle.dumps(CheckedFiles(tmp_path))).folder == tmp_path
