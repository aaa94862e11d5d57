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

from benchmarks.support import all_reduce_speed, memory
from benchmarks.support.harness import synchronize
from benchmarks.support.memory import live_storages
from benchmarks.support.operation_costs import label_modules
from benchmarks.support.plain_loop import BareLoop, ResidentBatch, unmasked
from shards.randomness import sample_keys
from shards.reading.batch import Batch
from shards.reading.datasets import TrainingDataset
from vaetrain.config.command import Command
from vaetrain.engines.base import Engine
from vaetrain.model.vae import draw_noise
from vaetrain.reporting.run_log import RunLog
from vaetrain.training.between_steps import log_means, save_checkpoint, validate
from vaetrain.training.build import Run, build_run
from vaetrain.training.trainer import Trainer

NEVER = 10**15  # images
STEP = "step"  # name of a whole step in a trace


class Steps:
    """Trainer at its first step, and plain loops of the same model on batches on the device.

    It never ends, and neither validates nor saves, but it logs as the experiment says.

    Attributes:
        trainer, run: the trainer and its parts.
    """

    def __init__(self, command: Command, engine: Engine) -> None:
        self.engine = engine
        self.train_config = train = command.experiment.train
        train = dataclasses.replace(
            train,
            epochs=1e6,
            max_images=None,
            validate_every_images=NEVER,
            checkpoint_every_images=NEVER,
        )
        experiment = dataclasses.replace(command.experiment, train=train)
        self.run = build_run(dataclasses.replace(command, experiment=experiment), engine)
        self.trainer = Trainer(self.run)
        self.sizes: Counter[tuple[int, int, int]] = Counter()
        self.rows = 0
        self.batches = self._counted(self.trainer.start())
        self.loops: dict[str, BareLoop] = {}
        self.blocks: list[list[ResidentBatch]] = []
        self.blocks_used: Counter[str] = Counter()  # of each loop

    def close(self) -> None:
        """Close readers and files."""
        self.batches.close()
        self.trainer.log.close()

    def about(self) -> dict[str, Any]:
        """Return engine, ranks, precision and model, for a record."""
        experiment, batching = self.run.experiment, self.run.batching
        return {
            "engine": self.engine.name,
            "ranks": self.engine.world_size,
            "threads_per_rank": torch.get_num_threads(),
            "threads": torch.get_num_threads() * self.engine.world_size,
            "precision": self.engine.precision,
            "device": str(self.engine.device),
            "model": dataclasses.asdict(experiment.model),
            "width": experiment.data.width,
            "max_height": experiment.data.max_height,
            "parameters": sum(p.numel() for p in self.engine.module.parameters()),
            **dataclasses.asdict(batching),
        }

    def train(self, count: int) -> dict[str, Any]:
        """Take steps as a run does, with log lines where due.

        Returns: `images` and valid `pixels` of all ranks, and this rank's micro batches by padded
            size, `sizes`: how many of (pages, rows, width).
        """
        self.sizes.clear()
        self.rows = 0
        for _ in range(count):
            with record_function(STEP):
                self.trainer.step(self.batches)
                self.trainer.after_step()
        rows = int(self.engine.sum(torch.tensor(self.rows, device=self.engine.device)))
        return {
            "images": count * self.run.batching.global_batch,
            "pixels": rows * self.run.experiment.data.width,
            "sizes": dict(self.sizes),
        }

    def measure_link(self, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
        """Measure the link between ranks; see `all_reduce_speed.measure`."""
        return all_reduce_speed.measure(self.engine, sizes, repeats)

    def lay_out(self, blocks: int, count: int) -> None:
        """Load blocks of `count` steps' batches onto the device, and build the plain loops.

        They are the batches of the trainer's own first steps.
        """
        run = self.run
        reader = TrainingDataset(
            run.data.order,
            run.data.collator,
            rank=self.engine.rank,
            world_size=self.engine.world_size,
            micro_batch_size=run.batching.micro_batch,
        )
        micro_batches = count * run.batching.accumulation
        self.blocks = [
            [self._resident(reader[number]) for number in range(first, first + micro_batches)]
            for first in range(0, blocks * micro_batches, micro_batches)
        ]
        self.loops = {"bare": BareLoop(run), "unmasked": BareLoop(run, replace=unmasked)}

    def _resident(self, batch: Batch) -> ResidentBatch:
        batch, seed = batch.to(self.engine.device), self.run.experiment.train.seed
        inputs, targets = self.run.forward.augment(batch, seed)
        keys = sample_keys(seed, batch.epochs, batch.ids, "eps")
        noise = draw_noise(self.engine.module, keys, batch.size, gate=1.0, dropout=0.0)
        return ResidentBatch(inputs, targets, batch.heights, noise)

    def loop(self, kind: str) -> int:
        """Train a plain loop, `bare` or `unmasked`, on its next block; return the images."""
        block = self.blocks[self.blocks_used[kind]]
        self.blocks_used[kind] += 1
        self.loops[kind].train(block)
        return sum(len(batch.heights) for batch in block)

    def phases(self, count: int) -> dict[str, float]:
        """Return mean seconds of a step by the trainer's phases, and `other`.

        The host waits for a GPU after each phase, so their sum may exceed a step's time.
        """
        watch = self.run.stopwatch
        watch.synchronise = lambda: synchronize(self.engine.device)
        watch.restart(watch.images)
        for _ in range(count):
            self.trainer.step(self.batches)
            self.trainer.stop.agreed()
        seconds = {name: value / count for name, value in watch.seconds.items()}
        watch.synchronise = lambda: None
        return seconds | {"other": watch.elapsed / count - sum(seconds.values())}

    def between_steps(self) -> dict[str, float]:
        """Return seconds per step of log lines, validations and checkpoints, each run once."""
        global_batch = self.run.batching.global_batch
        every = {
            "log": (log_means, self.train_config.log_every_images),
            "validation": (validate, self.train_config.validate_every_images),
            "checkpoint": (save_checkpoint, self.train_config.checkpoint_every_images),
        }
        shares = {
            name: self._seconds(action) * min(1.0, global_batch / images)
            for name, (action, images) in every.items()
        }
        self.run.writer.finish()
        return shares

    def _seconds(self, action: Callable[[Run, RunLog], object]) -> float:
        synchronize(self.engine.device)
        start = time.perf_counter()
        action(self.run, self.trainer.log)
        synchronize(self.engine.device)
        return time.perf_counter() - start

    def peak_memory(self, count: int) -> int:
        """Return the peak bytes of this rank's tensors in steps, by the allocator's record.

        The plain loops are deleted before.
        """
        self.loops.clear()
        self.blocks.clear()
        device = self.engine.device
        on_gpu = device.type == "cuda"
        held = torch.cuda.memory_allocated(device) if on_gpu else sum(live_storages().values())
        return held + memory.measure(lambda _: self.train(count), device)

    def profile(self, count: int, trace: str, *, shapes: bool) -> None:
        """Profile steps; the main process writes a Chrome trace.

        Args:
            trace: path of the file.
            shapes: also record the modules that operations belong to, and input shapes.
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
        """Write torch's snapshot of GPU memory during one step; see pytorch.org/memory_viz."""
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
