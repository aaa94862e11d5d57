"""Checkpoints are written atomically, read back exactly, and refused for another run."""

import dataclasses

import pytest
import torch

from shards import atomic_files
from shards.atomic_files import CannotWrite
from vaetrain.artifacts import checkpoint
from vaetrain.artifacts.checkpoint import Checkpoint, DamagedCheckpoint
from vaetrain.config.experiment import Experiment, as_dict
from vaetrain.settings import ConfigError


def a_checkpoint(images: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(images)
    tensors = {"layer.weight": torch.randn(3, 4, generator=generator), "norm": torch.ones(2)}
    optimizer = {"step.norm": torch.tensor(7.0), "exp_avg.norm": torch.zeros(2)}
    state = {"experiment": as_dict(Experiment()), "sums": [0.1, 1 / 3]}
    return Checkpoint(images, tensors, tensors, optimizer, {}, state)


def test_checkpoint_is_read_back_exactly(tmp_path):
    written = a_checkpoint(128)
    read = checkpoint.load(checkpoint.save(tmp_path, written, keep=3))
    assert (read.images, read.state) == (written.images, written.state)
    for part in checkpoint.PARTS:
        loaded, expected = getattr(read, part), getattr(written, part)
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for images in (16, 32, 9_999_999, 48):
        checkpoint.save(tmp_path, a_checkpoint(images), keep=2)
    assert [int(path.name) for path in checkpoint.list_checkpoints(tmp_path)] == [48, 9_999_999]


def test_saving_again_at_an_image_count_replaces_the_checkpoint(tmp_path):
    checkpoint.save(tmp_path, a_checkpoint(16), keep=2)
    changed = dataclasses.replace(a_checkpoint(16), state={"new": 1})
    assert checkpoint.load(checkpoint.save(tmp_path, changed, keep=2)).state == {"new": 1}


def test_crash_while_saving_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, a_checkpoint(16), keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "sync_path", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        # A killed process removes nothing.
        patch.setattr(atomic_files.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, a_checkpoint(32), keep=1)
    assert len(list(tmp_path.iterdir())) == 2  # with the unfinished one
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == [f"{16:012d}"]
    checkpoint.load(checkpoint.list_checkpoints(tmp_path)[0])
    checkpoint.save(tmp_path, a_checkpoint(48), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == [f"{48:012d}"]


def test_full_disk_keeps_the_previous_checkpoint_and_leaves_no_files(full_disk):
    folder = full_disk.folder / "checkpoints"
    checkpoint.save(folder, a_checkpoint(16), keep=1)
    with full_disk.filled():
        with pytest.raises(CannotWrite, match=f"{32:012d}: cannot be written") as refusal:
            checkpoint.save(folder, a_checkpoint(32), keep=1)
        assert "\n" not in str(refusal.value)
        assert [path.name for path in folder.iterdir()] == [f"{16:012d}"]
        assert checkpoint.load(checkpoint.list_checkpoints(folder)[0]).images == 16
    checkpoint.save(folder, a_checkpoint(32), keep=1)
    assert [path.name for path in folder.iterdir()] == [f"{32:012d}"]


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(CannotWrite, match="checkpoints/000000000016: cannot be written"):
        checkpoint.save(tmp_path / "checkpoints", a_checkpoint(16), keep=1)


@pytest.mark.parametrize("name", ["weights.safetensors", "average.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damaged_file_is_detected_and_named(tmp_path, name, harm):
    path = checkpoint.save(tmp_path, a_checkpoint(16), keep=1)
    data = bytearray((path / name).read_bytes())
    if harm == "flip":
        data[-3] ^= 4
    elif harm == "cut":
        del data[-3:]
    (path / name).unlink()
    if harm != "remove":
        (path / name).write_bytes(data)
    with pytest.raises(DamagedCheckpoint, match=name) as refusal:
        checkpoint.load(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"state.json": 3}', "nonsense"])
def test_invalid_manifest_is_a_damaged_checkpoint(tmp_path, text):
    path = checkpoint.save(tmp_path, a_checkpoint(16), keep=1)
    (path / checkpoint.MANIFEST).write_text(text)
    with pytest.raises(DamagedCheckpoint):
        checkpoint.load(path)


def test_entry_missing_from_an_older_checkpoint_is_named():
    with (
        pytest.raises(
            ConfigError, match=r"has no entry 'verdicts': it was written by another version"
        ),
        checkpoint.refuse_other_versions(),
    ):
        {"since": 1}["verdicts"]
