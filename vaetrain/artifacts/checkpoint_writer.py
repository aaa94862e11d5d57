"""Checkpoints of a running training: each rank writes its part, in the background.

A save copies this rank's part to the host and starts a thread, so that training stands still only
for the copy. The thread writes the part's files into a draft folder, and then a note with their
SHA-256s. The main process's thread waits for the notes of all ranks, adds the JSON files, and
renames the folder: whatever happens at any moment, a checkpoint is whole or does not exist.

A rank that cannot write removes the draft; the threads of the other ranks give up when they see
that. The result of a save is known to all ranks after `finish`, which every save begins with.
"""

from __future__ import annotations

import copy
import json
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.atomic_files import CannotWrite, publish_folder, sync_path, write_atomic, writing
from shards.lifetime import before_exit
from vaetrain.artifacts import checkpoint
from vaetrain.artifacts.tensor_files import Entry, Layout
from vaetrain.engines.base import AVERAGE, WEIGHT, Engine

NOTE = "written-{}.json"  # a rank has written its part
POLL_SECONDS = 0.05
EXIT_SECONDS = 10.0  # that a process which must end waits for a save; launchers kill after 30

Parts = dict[str, dict[str, Tensor]]


class DraftRemoved(Exception):
    """Another rank could not write its part."""


@dataclass
class Save:
    """A checkpoint that is being written.

    Attributes:
        images: image count.
        part: result of this rank's part.
        whole: result of the whole checkpoint, on the main process only.
    """

    images: int
    part: Future[None]
    whole: Future[None] | None


class CheckpointWriter:
    """Writer of one rank; its methods are collective, except `wait`.

    Attributes:
        current: the checkpoint that was started last; None after `finish`.
    """

    def __init__(self, engine: Engine, folder: Path, keep: int) -> None:
        self.engine, self.folder, self.keep = engine, folder, keep
        self.current: Save | None = None
        self._given_up = threading.Event()
        self._threads = ThreadPoolExecutor(1, "checkpoint")
        before_exit(self.wait)

    def start(
        self,
        images: int,
        state: Mapping[str, Any],
        adversary: Mapping[str, Tensor],
        before: Callable[[], None],
    ) -> None:
        """Copy the state of the model, and write it in the background. Call `finish` before.

        Args:
            state: JSON; see `Checkpoint`.
            adversary: tensors that every rank has.
            before: called on the main process first; may raise CannotWrite.

        Raises CannotWrite if nothing can be written.
        """
        engine = self.engine
        final = checkpoint.path_of(self.folder, images)
        token = engine.broadcast_object(secrets.token_hex(4))
        # Never the name of an earlier draft, into which a rank of a killed run may still write.
        draft = self.folder / f".{final.name}.{token}.tmp"
        engine.on_main(lambda: self._open(draft, final, before), CannotWrite)
        number, count = engine.split.part, engine.world_size
        seen = torch.tensor(int(draft.is_dir()), device=engine.device)
        if int(engine.sum(seen)) == engine.world_size:
            tensors = self._own_tensors(adversary)
        else:
            # The machines share no disk, so the main process writes everything.
            tensors, number, count = self._whole_tensors(adversary), engine.rank, 1
        self._given_up.clear()
        part: Future[None] = Future()
        if number < count:
            part = self._threads.submit(self._write_part, draft, final, tensors, number, count)
        else:
            part.set_result(None)
        whole = None
        if engine.is_main:
            tree = copy.deepcopy({"images": images, **state})  # the state changes in the next step
            layouts = self._layouts() if count > 1 else None
            whole = self._threads.submit(self._complete, draft, final, part, count, tree, layouts)
        self.current = Save(images, part, whole)

    def finish(self) -> None:
        """Wait until the checkpoint that was started is whole, or raise CannotWrite."""
        if self.current is None:
            return
        save, self.current = self.current, None
        self.engine.mark_progress(f"writing the checkpoint at {save.images} images")
        failure = self.engine.first_message(_failure(save.part))
        if save.whole is not None:
            if failure is not None:
                self._given_up.set()
            failure = failure or _failure(save.whole)
        failure = self.engine.broadcast_object(failure)
        if failure is not None:
            raise CannotWrite(failure)

    def wait(self) -> None:
        """Wait for the running save before this process ends, for a limited time."""
        if self.current is not None:
            futures = (self.current.part, self.current.whole)
            wait([each for each in futures if each is not None], EXIT_SECONDS)

    # At the step.

    def _open(self, draft: Path, final: Path, before: Callable[[], None]) -> None:
        before()
        with writing(final):
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.remove_drafts(self.folder)
            draft.mkdir()

    def _own_tensors(self, adversary: Mapping[str, Tensor]) -> Parts:
        """Return copies of this rank's part; with one rank, of whole tensors."""
        engine = self.engine
        whole = engine.world_size == 1
        shapes = {name: shape for name, (shape, _) in engine.part_bounds().items()} if whole else {}

        def part(kind: str, prefix: str = "") -> Iterable[tuple[str, Tensor]]:
            for name, values in engine.part(kind):
                if whole:
                    values = values.view(shapes[name])
                if values.numel():
                    yield f"{prefix}{name}", values

        moments = [pair for kind in engine.moments for pair in part(kind, f"{kind}.")]
        sources = {"weights": part(WEIGHT), "average": part(AVERAGE), "optimizer": moments}
        own = {name: dict(pairs) for name, pairs in sources.items()} | {"adversary": {}}
        if engine.is_main:
            buffers = dict(engine.buffers())
            own["weights"] |= buffers
            own["average"] |= buffers
            own["optimizer"] |= dict(engine.whole_state())
            own["adversary"] = dict(adversary)
        return copy_to_host(own)

    def _whole_tensors(self, adversary: Mapping[str, Tensor]) -> Parts:
        """Return copies of everything on the main process, and nothing on the other ranks."""
        engine = self.engine
        sources = {
            "weights": engine.weights(),
            "average": (*engine.gather(AVERAGE), *engine.buffers()),
            "optimizer": engine.optimizer_state(),
            "adversary": adversary.items(),
        }
        return copy_to_host({part: engine.collect(pairs) for part, pairs in sources.items()})

    def _layouts(self) -> dict[str, Layout]:
        entries = {name: Entry(*entry) for name, entry in self.engine.part_bounds().items()}
        moments = {f"{k}.{name}": e for k in self.engine.moments for name, e in entries.items()}
        return {"weights": entries, "average": entries, "optimizer": moments, "adversary": {}}

    # In the thread.

    def _write_part(
        self, draft: Path, final: Path, tensors: Parts, number: int, count: int
    ) -> None:
        try:
            with writing(final):
                digests = checkpoint.write_part(draft, tensors, number, count)
                for name in digests:
                    sync_path(draft / name)
                write_atomic(draft / NOTE.format(number), json.dumps(digests))
        except CannotWrite as error:
            if not draft.is_dir():
                raise DraftRemoved from error
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def _complete(
        self,
        draft: Path,
        final: Path,
        part: Future[None],
        count: int,
        state: Mapping[str, Any],
        layouts: Mapping[str, Layout] | None,
    ) -> None:
        part.result()
        try:
            with writing(final):
                digests = self._wait_for_notes(draft, count)
                checkpoint.write_manifest(draft, state, digests, layouts)
                publish_folder(draft, final)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)  # it may fill the disk
            raise
        checkpoint.remove_old(self.folder, self.keep)

    def _wait_for_notes(self, draft: Path, count: int) -> dict[str, str]:
        """Return the SHA-256s of all parts when all ranks have written theirs."""
        missing = {draft / NOTE.format(number) for number in range(count)}
        digests: dict[str, str] = {}
        while True:
            for note in [note for note in missing if note.exists()]:
                digests |= json.loads(note.read_text())
                note.unlink()
                missing.remove(note)
            if not missing:
                return digests
            # Python's exit waits for this thread, and another rank may be dead.
            is_ending = not threading.main_thread().is_alive()
            if self._given_up.wait(POLL_SECONDS) or is_ending or not draft.is_dir():
                raise DraftRemoved


def _failure(future: Future[None]) -> str | None:
    """Wait for a result; return why nothing was written, if this rank knows the reason."""
    try:
        future.result()
    except CannotWrite as error:
        return str(error)
    except DraftRemoved:
        return None
    return None


def copy_to_host(parts: Parts) -> Parts:
    """Return copies of tensors in host memory, which later steps do not change."""
    copies = {
        part: {name: _host_copy(tensor.detach()) for name, tensor in tensors.items()}
        for part, tensors in parts.items()
    }
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return copies


def _host_copy(tensor: Tensor) -> Tensor:
    # From pinned memory the GPU copies without waiting for the host; torch keeps it for the next
    # save.
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)
