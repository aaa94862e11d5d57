"""Ranks write a checkpoint together, in the background: it is whole, or it does not exist."""

import json
import threading

import pytest
import torch

from shards.atomic_files import CannotWrite
from tests.support.ranks import ThreadRanks, run_ranks
from vaetrain.artifacts import checkpoint
from vaetrain.artifacts.checkpoint_writer import CheckpointWriter
from vaetrain.engines.base import AVERAGE, WEIGHT
from vaetrain.engines.optimizers import MOMENTS, STEP
from vaetrain.engines.slices import Split, even_bounds

SHAPES = {"matrix": (5, 7), "kernel": (2, 3, 2, 2), "bias": (2,)}


def values(name: str, kind: str, images: int) -> torch.Tensor:
    """Return a tensor of the model at an image count."""
    generator = torch.Generator().manual_seed(images + len(name) + 100 * len(kind))
    return torch.randn(SHAPES[name], generator=generator)


class SlicedRank:
    """Engine of one of several ranks that are threads; its state is that of an image count."""

    moments = MOMENTS

    def __init__(self, ranks: ThreadRanks, replicas: int = 1) -> None:
        self.ranks, self.images = ranks, 0
        count = ranks.world_size // replicas
        self.split = Split(count, ranks.rank // replicas, replicas, ranks.rank % replicas)

    def __getattr__(self, name: str) -> object:
        return getattr(self.ranks, name)

    def set(self, images: int) -> None:
        """Change the state in place, as a step does."""
        for kind, tensors in self.state.items():
            for name, tensor in tensors.items():
                tensor.copy_(values(name, kind, images))
        self.count.fill_(images)

    def prepare(self) -> "SlicedRank":
        kinds = (WEIGHT, AVERAGE, *MOMENTS)
        self.state = {kind: {name: torch.zeros(SHAPES[name]) for name in SHAPES} for kind in kinds}
        self.count = torch.zeros(())
        return self

    def part_bounds(self):
        return {
            name: (shape, self.split.part_bounds(even_bounds(torch.Size(shape).numel(), n)))
            for name, shape in SHAPES.items()
            for n in [self.split.count]
        }

    def part(self, kind):
        for name, (_, bounds) in self.part_bounds().items():
            start, stop = bounds[self.split.part : self.split.part + 2]
            yield name, self.state[kind][name].flatten()[start:stop]

    def buffers(self):
        return [("gate", torch.tensor(0.5))]

    def whole_state(self):
        return [(STEP, self.count)]

    def gather(self, kind):
        return self.state[kind].items()

    def weights(self):
        return [*self.gather(WEIGHT), *self.buffers()]

    def optimizer_state(self):
        moments = [(f"{kind}.{n}", t) for kind in MOMENTS for n, t in self.gather(kind)]
        return [*self.whole_state(), *moments]

    def collect(self, pairs):
        return dict(pairs) if self.ranks.is_main else {}

    def on_main(self, action, error_type):
        message = None
        if self.ranks.is_main:
            try:
                action()
            except CannotWrite as error:
                message = str(error)
        message = self.ranks.broadcast_object(message)
        if message is not None:
            raise error_type(message)


def start(engine: SlicedRank, writer: CheckpointWriter, images: int) -> None:
    engine.set(images)
    state = {"best": {"l1": 0.5}}
    adversary = {"means": torch.full((3,), float(images))}
    writer.start(images, state, adversary, lambda: None)
    state["best"]["l1"] = adversary["means"][0] = 0.0  # as the next step may change them


def save(folder, images: int, world_size: int, replicas: int = 1, keep: int = 3) -> None:
    """Save a checkpoint with ranks that are threads."""

    def rank(ranks: ThreadRanks) -> None:
        engine = SlicedRank(ranks, replicas).prepare()
        writer = CheckpointWriter(engine, folder, keep)
        start(engine, writer, images)
        writer.finish()

    run_ranks(world_size, rank)


def check(path, images: int) -> None:
    """Assert that a checkpoint has the state of an image count."""
    saved = checkpoint.load(path)
    assert (saved.images, saved.state) == (images, {"best": {"l1": 0.5}})
    for part, kind in (("weights", WEIGHT), ("average", AVERAGE)):
        tensors = dict(getattr(saved, part))
        assert tensors.pop("gate") == 0.5
        assert tensors.keys() == SHAPES.keys()
        assert all(torch.equal(tensors[name], values(name, kind, images)) for name in SHAPES)
    assert saved.optimizer[STEP] == images
    for moment in MOMENTS:
        for name in SHAPES:
            assert torch.equal(saved.optimizer[f"{moment}.{name}"], values(name, moment, images))
    assert saved.adversary["means"].tolist() == [images] * 3


@pytest.mark.parametrize(("world_size", "replicas"), [(1, 1), (3, 1), (4, 2), (3, 3), (7, 1)])
def test_parts_of_all_ranks_make_one_checkpoint(tmp_path, world_size, replicas):
    save(tmp_path, 16, world_size, replicas)
    (path,) = tmp_path.iterdir()
    check(path, 16)
    names = {file.name for file in path.iterdir()}
    if world_size == 1:
        parts = {f"{part}.safetensors" for part in checkpoint.PARTS}
        assert names == {*parts, "state.json", "manifest.json"}
    else:
        assert f"weights-{world_size:05d}-of-{world_size:05d}.safetensors" in names
        assert len(names) == 4 * world_size + 3


def test_all_ranks_together_check_every_file(tmp_path):
    save(tmp_path, 16, 3)
    (path,) = tmp_path.iterdir()
    for name in sorted(file.name for file in path.iterdir() if file.name != "manifest.json"):
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        found = 0
        for rank in range(4):
            try:
                checkpoint.open_share(path, rank, 4)
            except checkpoint.DamagedCheckpoint as error:
                found += name in str(error)
        assert found >= 1, name
        (path / name).write_bytes(content)
    check(path, 16)


def test_a_missing_file_is_named(tmp_path):
    save(tmp_path, 16, 3)
    (path,) = tmp_path.iterdir()
    (path / "average-00002-of-00003.safetensors").unlink()
    for rank in range(3):
        with pytest.raises(checkpoint.DamagedCheckpoint, match="average-00002-of-00003"):
            checkpoint.open_share(path, rank, 3)


def test_steps_go_on_while_it_is_written(tmp_path, monkeypatch):
    """Later changes of the tensors are not in the checkpoint."""
    may_write = threading.Event()
    write = checkpoint.write_part

    def slow(*arguments):
        may_write.wait(20)
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "write_part", slow)

    def rank(ranks: ThreadRanks) -> None:
        engine = SlicedRank(ranks).prepare()
        writer = CheckpointWriter(engine, tmp_path, 3)
        start(engine, writer, 16)
        engine.set(24)  # the next steps
        ranks.broadcast_object(None)
        if ranks.is_main:
            assert checkpoint.list_checkpoints(tmp_path) == []
            may_write.set()
        writer.finish()
        assert writer.current is None

    run_ranks(2, rank)
    (path,) = tmp_path.iterdir()
    check(path, 16)


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_one_rank_that_cannot_write_leaves_the_old_checkpoint(tmp_path, monkeypatch, culprit):
    save(tmp_path, 16, 3)
    write = checkpoint.write_part

    def full(draft, tensors, number=0, count=1):
        if number == culprit and draft.name.startswith(f".{32:012d}"):
            raise OSError(28, "No space left on device")
        return write(draft, tensors, number, count)

    monkeypatch.setattr(checkpoint, "write_part", full)

    def rank(ranks: ThreadRanks) -> None:
        engine = SlicedRank(ranks).prepare()
        writer = CheckpointWriter(engine, tmp_path, 3)
        start(engine, writer, 32)
        with pytest.raises(CannotWrite, match=r"000000000032: cannot be written \(No space left"):
            writer.finish()
        # All ranks know it, and the next save is not affected.
        start(engine, writer, 48)
        writer.finish()

    run_ranks(3, rank)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n:012d}" for n in (16, 48)]
    check(tmp_path / f"{48:012d}", 48)


def test_a_killed_save_leaves_the_old_checkpoint_and_its_draft_is_removed(tmp_path):
    save(tmp_path, 16, 2)
    draft = tmp_path / f".{32:012d}.0123abcd.tmp"
    draft.mkdir()
    (draft / "written-1.json").write_text(json.dumps({"nonsense": "of a killed run"}))
    check(checkpoint.list_checkpoints(tmp_path)[-1], 16)
    save(tmp_path, 32, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n:012d}" for n in (16, 32)]
    check(tmp_path / f"{32:012d}", 32)


def test_old_checkpoints_are_removed(tmp_path):
    for images in (16, 32, 48):
        save(tmp_path, images, 2, keep=2)
    assert [int(path.name) for path in checkpoint.list_checkpoints(tmp_path)] == [32, 48]


def test_without_a_shared_disk_the_main_process_writes_everything(tmp_path):
    folders = [tmp_path / "0", tmp_path / "1"]

    def rank(ranks: ThreadRanks) -> None:
        engine = SlicedRank(ranks).prepare()
        writer = CheckpointWriter(engine, folders[ranks.rank], 3)
        start(engine, writer, 16)
        writer.finish()

    run_ranks(2, rank)
    (path,) = folders[0].iterdir()
    check(path, 16)
    assert (path / "weights.safetensors").exists()
    assert not folders[1].exists()


def test_a_process_that_must_end_waits_for_the_save(tmp_path):
    def rank(ranks: ThreadRanks) -> None:
        engine = SlicedRank(ranks).prepare()
        writer = CheckpointWriter(engine, tmp_path, 3)
        start(engine, writer, 16)
        writer.wait()
        if ranks.is_main:
            check(tmp_path / f"{16:012d}", 16)

    run_ranks(1, rank)
