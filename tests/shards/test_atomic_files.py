"""Atomic writes: a failure keeps the old file or folder and removes the unfinished one."""

import hashlib

import pytest

from shards.atomic_files import CannotWrite, atomic_folder, remove_folder, sha256_of, write_atomic


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(full_disk):
    path = full_disk.folder / "a.txt"
    path.write_text("old")
    with full_disk.filled(), pytest.raises(OSError, match=r"No space|too large"):
        write_atomic(path, "new" * 10_000)
    assert path.read_text() == "old"
    assert not list(path.parent.glob(".a.txt*"))


def test_a_folder_is_replaced_when_it_is_complete(tmp_path):
    target = tmp_path / "folder"
    for text in ("old", "new"):
        with atomic_folder(target) as draft:
            (draft / "file").write_text(text)
            assert draft != target
    assert (target / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_keeps_the_old_one_and_names_the_path(tmp_path):
    target = tmp_path / "folder"
    with atomic_folder(target) as draft:
        (draft / "file").write_text("old")
    with pytest.raises(CannotWrite, match="folder: cannot be written"), atomic_folder(target):
        raise OSError(28, "No space left on device")
    assert (target / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_a_folder_is_absent_after_any_exception(tmp_path, fault):
    def write_half() -> None:
        with atomic_folder(tmp_path / "folder") as draft:
            (draft / "file").write_text("half")
            raise fault

    with pytest.raises(fault):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_removed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    remove_folder(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_sha256_of_a_path_and_of_the_rest_of_a_stream(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abcdef")
    assert sha256_of(path) == hashlib.sha256(b"abcdef").hexdigest()
    with path.open("rb") as stream:
        stream.read(3)
        assert sha256_of(stream) == hashlib.sha256(b"def").hexdigest()
