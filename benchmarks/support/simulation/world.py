"""A training of many ranks on the nodes of a cluster, from a checkpoint to an image count."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.support.memory import resident_bytes
from benchmarks.support.simulated_ranks import BeatLoop, Clock, SimulatedRank, Store, start_ranks
from benchmarks.support.simulation.object_store import ObjectStore
from benchmarks.support.simulation.ranks import RUNNING, CountingEngine, Meeting, RankEnded
from vaetrain.artifacts import checkpoint
from vaetrain.artifacts.checkpoint_writer import CheckpointWriter
from vaetrain.data.batching import split_global_batch
from vaetrain.data.config import DataConfig
from vaetrain.data.loading import TrainingData

STRIDE = 16  # of a model; the width of pages must be a multiple


class RankKilled(Exception):
    """A rank's process is killed, as by the kernel."""


@dataclass(frozen=True)
class Plan:
    """Length and faults of a training.

    Attributes:
        stop: step to end before.
        save_every: steps between two checkpoints.
        straggler: rank that is slow; None: none is.
        slow_seconds: that the straggler needs more in a step.
        killed: rank that is killed; None: none is.
        killed_at: the step after which it is killed, while it writes its part of the checkpoint.
    """

    stop: int
    save_every: int
    straggler: int | None = None
    slow_seconds: float = 0.0
    killed: int | None = None
    killed_at: int = 0


@dataclass
class Outcome:
    """Results of a training.

    Attributes:
        steps: sample ids of all ranks, int64 (G,), by the number of a step.
        failures: messages of the ranks that the heartbeat ended.
        seconds_to_failure: from the death of a rank to the first and the last of these.
        requests: of all ranks to the launcher's store a second, `training`, and `waiting` for the
            killed rank.
        latest: seconds by which a beat came too late, at most.
        memory: bytes of all ranks.
    """

    steps: dict[int, np.ndarray] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds_to_failure: tuple[float, float] | None = None
    requests: dict[str, float] = field(default_factory=dict)
    latest: float = 0.0
    memory: int = 0


@dataclass
class OpenedRank:
    """A rank that has opened its shards, and has the state of the newest checkpoint.

    Attributes:
        first: the step that it continues with.
    """

    engine: CountingEngine
    data: TrainingData
    first: int


class World:
    """Ranks as threads, `per_node` on each node; a node has one cache of shards."""

    def __init__(
        self,
        world_size: int,
        per_node: int,
        objects: ObjectStore,
        checkpoints: Path,
        global_batch: int,
        **data: Any,
    ) -> None:
        """Prepare a training.

        Args:
            data: settings of `DataConfig`.
        """
        self.world_size, self.per_node = world_size, per_node
        self.objects, self.checkpoints = objects, checkpoints
        self.global_batch, self.settings = global_batch, data
        self._meeting = Meeting(world_size)

    def run(self, plan: Plan, store: Store | None, timeout: float) -> Outcome:
        """Resume from the newest checkpoint and train, once; return what happened.

        Args:
            store: the launcher's, for the heartbeat; None: the ranks have none.
            timeout: of the heartbeat in seconds.
        """
        self._outcome, self._killed_after = Outcome(), 0.0
        self._before = resident_bytes()
        # One after the other, as no rank waits for another one here.
        ranks = [self.opened(rank) for rank in range(self.world_size)]
        beats: list[SimulatedRank] = []
        beating: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if store is not None:
            clock = Clock()
            sizes = (self.world_size, self.per_node)
            beats = start_ranks(store, *sizes, timeout, clock, store.connect())
            loop = BeatLoop(beats, clock)
            beating = loop.running()
            for rank, beat in zip(ranks, beats, strict=True):
                rank.engine.heartbeat = beat
                beat.on_end = partial(self._meeting.wake, beat.rank)
        self._requests = [beat.count_requests() for beat in beats]
        self._counted = (time.monotonic(), 0)
        with beating, self._killing(plan), ThreadPoolExecutor(self.world_size) as pool:
            threads = [pool.submit(self._train, rank, plan) for rank in ranks]
            for thread in threads:
                thread.add_done_callback(self._abort_if_failed)
            self._collect(threads)
        ends = [beat.ended - self._killed_after for beat in beats if beat.failure]
        if ends:
            self._outcome.seconds_to_failure = min(ends), max(ends)
        if beats:
            self._outcome.latest = loop.latest
        return self._outcome

    def opened(self, rank: int) -> OpenedRank:
        """Open the shards, and read the newest checkpoint, as a rank does."""
        node = f"node-{rank // self.per_node:04}"
        config = DataConfig(
            shards=self.objects.address(node),
            cache_dir=str(self.objects.cache_of(node)),
            workers=0,
            **self.settings,
        )
        engine = CountingEngine(rank, self.world_size, self.per_node, self._meeting)
        options = {"seed": 0, "global_batch_size": self.global_batch}
        data = TrainingData(config, engine, STRIDE, **options)
        engine.create(len(data.train))
        first = 0
        if saved := checkpoint.list_checkpoints(self.checkpoints):
            opened = checkpoint.open_share(saved[-1], rank, self.world_size)
            engine.load(opened)
            first = opened.images // self.global_batch
        return OpenedRank(engine, data, first)

    def _abort_if_failed(self, thread: Future[None]) -> None:
        """Let the other ranks fail if one has failed by a fault of the code."""
        if not isinstance(thread.exception(), RankEnded | RankKilled | None):
            self._meeting.abort()

    def _collect(self, threads: list[Future[None]]) -> None:
        for thread in threads:
            try:
                thread.result()
            except RankEnded as end:
                self._outcome.failures.append(str(end))
            except RankKilled:
                continue
        self._count("waiting" if self._killed_after else "training")

    def _train(self, rank: OpenedRank, plan: Plan) -> None:
        engine, number = rank.engine, rank.engine.rank
        batching = split_global_batch(self.global_batch, None, self.world_size)
        batches = rank.data.training_batches(batching, range(rank.first, plan.stop))
        writer = CheckpointWriter(engine, self.checkpoints, keep=2)
        try:
            with self._meeting.running(number):
                for step in range(rank.first, plan.stop):
                    images = step * self.global_batch
                    engine.mark_progress(f"reading pages at {images} images")
                    own = [next(batches).ids.numpy() for _ in range(batching.accumulation)]
                    if number == plan.straggler:
                        time.sleep(plan.slow_seconds)
                    engine.mark_progress(f"training at {images} images")
                    every = engine.train(np.concatenate(own))
                    if engine.is_main:
                        self._outcome.steps[step] = np.concatenate(every)
                        grown = resident_bytes() - self._before
                        self._outcome.memory = max(self._outcome.memory, grown)
                    if (step + 1) % plan.save_every == 0 or step + 1 == plan.stop:
                        writer.finish()
                        writer.start(images + self.global_batch, {}, {}, lambda: None)
                    if number == plan.killed and step + 1 == plan.killed_at:
                        self._die(writer, engine.heartbeat)
                writer.finish()
        except RankEnded:
            _kill(writer)
            raise
        finally:
            rank.data.collator.files.prefetch([])  # stops the thread that fetches ahead

    def _die(self, writer: CheckpointWriter, heartbeat: SimulatedRank | None) -> None:
        """End as a killed process does: without a message, in the middle of writing."""
        writer.wait()
        if heartbeat is not None:
            heartbeat.die()
        self._count("training")
        self._killed_after = time.monotonic()
        raise RankKilled

    def _count(self, kind: str) -> None:
        """Note the requests to the launcher's store since the last call."""
        now, total = time.monotonic(), sum(map(len, self._requests))
        (begun, before), self._counted = self._counted, (now, total)
        self._outcome.requests[kind] = (total - before) / (now - begun)

    @contextmanager
    def _killing(self, plan: Plan) -> Iterator[None]:
        """Let few ranks write at a time, and the killed one only the first of its last files."""
        write, writing = checkpoint.write_part, threading.Semaphore(RUNNING)
        name = checkpoint.path_of(self.checkpoints, plan.killed_at * self.global_batch).name

        def until_killed(draft: Path, tensors: Any, number: int = 0, count: int = 1) -> Any:
            if number == plan.killed and name in draft.name:
                part = checkpoint.PARTS[0]
                only = {each: tensors[each] if each == part else {} for each in tensors}
                write(draft, only, number, count)
                raise RankKilled
            with writing:
                return write(draft, tensors, number, count)

        with patch.object(checkpoint, "write_part", until_killed):
            yield


def _kill(writer: CheckpointWriter) -> None:
    """End the thread that waits for the other ranks' parts; leave the draft as a kill does."""
    save = writer.current
    if save is None or save.whole is None:
        return
    drafts = list(writer.folder.glob(checkpoint.DRAFTS))
    for draft in drafts:
        draft.rename(draft.with_suffix(".kept"))
    while not save.whole.done():  # it sees that the draft is gone
        time.sleep(0.05)
    for draft in drafts:
        draft.with_suffix(".kept").rename(draft)
