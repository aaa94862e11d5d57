"""Work that a `trainer_process.TrainerProcess` can be given; all ranks do it at once."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.support import link, memory
from benchmarks.support.harness import synchronize
from benchmarks.support.memory import live_storages
from benchmarks.support.purposes import label_modules
from benchmarks.support.resident import BareLoop, Resident, unmasked
from shards.randomness import sample_keys
from shards.reading.batch import Batch
from shards.reading.datasets import TrainingDataset
from vaetrain.config.command import Command
from vaetrain.engines.base import Engine
from vaetrain.model.vae import draw_noise
from vaetrain.training.trainer import Trainer

NEVER = 10**15  # images
STEP = "step"  # what a trace calls a whole step


class Steps:
    """A trainer at its start, and plain loops of the same model on batches on the device.

    It trains without end: where validations, checkpoints and log lines are due by the experiment,
    only the last come.
    """

    def __init__(self, command: Command, engine: Engine) -> None:
        self.engine = engine
        self.asked = train = command.experiment.train
        train = dataclasses.replace(
            train,
            epochs=1e6,
            max_images=None,
            validate_every_images=NEVER,
            checkpoint_every_images=NEVER,
        )
        experiment = dataclasses.replace(command.experiment, train=train)
        self.training = Trainer(dataclasses.replace(command, experiment=experiment), engine)
        self.sizes: Counter[tuple[int, int, int]] = Counter()
        self.rows = 0
        self.batches = self._counted(self.training.start())
        self.loops: dict[str, BareLoop] = {}
        self.blocks: list[list[Resident]] = []
        self.turns: Counter[str] = Counter()  # blocks that each loop has had

    def close(self) -> None:
        """Let go of readers and files."""
        self.batches.close()
        self.training.log.close()

    def about(self) -> dict[str, Any]:
        """What is running, for a record."""
        training, experiment = self.training, self.training.experiment
        batching = training.batching
        return {
            "engine": self.engine.name,
            "ranks": self.engine.world_size,
            "threads_per_rank": torch.get_num_threads(),
            "precision": self.engine.precision,
            "device": str(self.engine.device),
            "model": dataclasses.asdict(experiment.model),
            "width": experiment.data.width,
            "max_height": experiment.data.max_height,
            "parameters": sum(p.numel() for p in self.engine.module.parameters()),
            **dataclasses.asdict(batching),
        }

    def train(self, count: int) -> dict[str, Any]:
        """Take steps as a run does.

        Returns: `images` and valid `pixels` of all ranks, and this rank's micro batches by padded
            size, `sizes`: how many of (pages, rows, width).
        """
        self.sizes.clear()
        self.rows = 0
        for _ in range(count):
            with record_function(STEP):
                self.training.step(self.batches)
                self.training.end_of_step()
        rows = int(self.engine.sum(torch.tensor(self.rows, device=self.engine.device)))
        return {
            "images": count * self.training.batching.global_batch,
            "pixels": rows * self.training.experiment.data.width,
            "sizes": dict(self.sizes),
        }

    def measure_link(self, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
        """What the ranks send through; see `link.measure`."""
        return link.measure(self.engine, sizes, repeats)

    def lay_out(self, blocks: int, count: int) -> None:
        """Bring blocks of `count` steps' batches to the device, and models for plain loops.

        The batches are those that the trainer takes in as many of its own first steps.
        """
        training = self.training
        reader = TrainingDataset(
            training.data.order,
            training.data.collator,
            rank=self.engine.rank,
            world_size=self.engine.world_size,
            micro_batch_size=training.batching.micro_batch,
        )
        turns = count * training.batching.accumulation
        self.blocks = [
            [self._resident(reader[number]) for number in range(first, first + turns)]
            for first in range(0, blocks * turns, turns)
        ]
        self.loops = {"bare": BareLoop(training), "unmasked": BareLoop(training, change=unmasked)}

    def _resident(self, batch: Batch) -> Resident:
        batch, seed = batch.to(self.engine.device), self.training.settings.seed
        inputs, targets = self.training.augment(batch, seed)
        keys = sample_keys(seed, batch.epochs, batch.ids, "eps")
        noise = draw_noise(self.engine.module, keys, batch.size, gate=1.0, dropout=0.0)
        return Resident(inputs, targets, batch.heights, noise)

    def loop(self, kind: str) -> int:
        """Train a plain loop, `bare` or `unmasked`, on its next block of batches; images."""
        block = self.blocks[self.turns[kind]]
        self.turns[kind] += 1
        self.loops[kind].train(block)
        return sum(len(batch.heights) for batch in block)

    def phases(self, count: int) -> dict[str, float]:
        """Seconds of a step by the trainer's phases, and `other`, in the mean over some steps.

        On a GPU each phase is waited for, so that their sum may exceed a step's time.
        """
        watch = self.training.watch
        watch.synchronise = lambda: synchronize(self.engine.device)
        watch.restart(watch.images)
        for _ in range(count):
            self.training.step(self.batches)
            self.training.stop.agreed()
        seconds = {name: value / count for name, value in watch.seconds.items()}
        watch.synchronise = lambda: None
        return seconds | {"other": watch.elapsed / count - sum(seconds.values())}

    def between_steps(self) -> dict[str, float]:
        """Seconds for each step of what the experiment wants now and then, once each."""
        global_batch = self.training.batching.global_batch
        every = {
            "log": (self.training.log_line, self.asked.log_every_images),
            "validation": (self.training.validate, self.asked.validate_every_images),
            "checkpoint": (self.training.save, self.asked.checkpoint_every_images),
        }
        return {
            name: self._seconds(action) * min(1.0, global_batch / images)
            for name, (action, images) in every.items()
        }

    def _seconds(self, action: Callable[[], object]) -> float:
        synchronize(self.engine.device)
        start = time.perf_counter()
        action()
        synchronize(self.engine.device)
        return time.perf_counter() - start

    def peak_memory(self, count: int) -> int:
        """Bytes of tensors that this rank held at most in steps, by the allocator's own record.

        Plain loops are let go of.
        """
        self.loops.clear()
        self.blocks.clear()
        device = self.engine.device
        on_gpu = device.type == "cuda"
        held = torch.cuda.memory_allocated(device) if on_gpu else sum(live_storages().values())
        return held + memory.measure(lambda _: self.train(count), device)

    def profile(self, count: int, trace: str, *, shapes: bool) -> None:
        """Take steps under the profiler; the main process writes a Chrome trace.

        Args:
            trace: the file.
            shapes: also what operations are for, and the shapes of their inputs.
        """
        activities = [ProfilerActivity.CPU]
        if self.engine.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        handles = label_modules(self.engine.module) if shapes else []
        try:
            self.train(1)
            with profile(activities=activities, record_shapes=shapes) as profiler:
                self.train(count)
                synchronize(self.engine.device)
        finally:
            for handle in handles:
                handle.remove()
        if self.engine.is_main:
            profiler.export_chrome_trace(trace)

    def snapshot(self, file: str) -> None:
        """Write torch's snapshot of the GPU's memory over one step; see pytorch.org/memory_viz."""
        torch.cuda.memory._record_memory_history()
        self.train(1)
        if self.engine.is_main:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            torch.cuda.memory._dump_snapshot(file)
        torch.cuda.memory._record_memory_history(enabled=None)

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.sizes[(len(batch), *batch.size)] += 1
            self.rows += int(batch.heights.sum())
            yield batch
