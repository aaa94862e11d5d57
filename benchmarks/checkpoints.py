"""Cost of checkpoints: how long training stands still, memory of a rank, bytes that it reads.

    python -m benchmarks.checkpoints [--quick] [--out DIR] [--engines NAME...]

Starts each engine with two ranks on a CPU, or one on every GPU, with the model `base` (27 million
parameters, 439 MB of weights, EMA and moments), and compares saving and loading with the way that
they replaced ("one file"): the main process gathered everything and wrote it while training stood
still, and every rank read and checked everything. Also times the gathering of the EMA for a
validation, with one collective for each parameter and for each 64 MiB. Files stay in the page
cache. Writes checkpoints.json and .png.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__" and __package__ is None:  # the launcher runs the file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.support import harness, report
from benchmarks.support.memory import resident_bytes
from shards import cli
from vaetrain.artifacts import checkpoint
from vaetrain.artifacts.checkpoint import Checkpoint
from vaetrain.artifacts.checkpoint_writer import CheckpointWriter
from vaetrain.engines.base import AVERAGE, Engine
from vaetrain.engines.config import OptimizerConfig
from vaetrain.engines.engine_files import default_processes, engine_file, engine_names
from vaetrain.engines.optimizers import build_optimizer
from vaetrain.engines.slices import RangeReader
from vaetrain.engines.spec import ENGINES, running_launch
from vaetrain.engines.start import start_engine
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE
from vaetrain.training.saved_weights import build_model, distribute_model

ROOT = Path(__file__).resolve().parents[1]
COMPARED = [name for name in engine_names() if ENGINES[name].has_process_group]
WAYS = ("one file", "slices")
MARKER = "checkpoints: "  # starts the line in which the main process prints its results
SIDE, SAMPLING = 64, 0.002
PREPARED = {"micro_batch": 1, "accumulation": 1, "clip_norm": 1.0}  # arguments of Engine.prepare


class Meter(threading.Thread):
    """Thread that samples the resident memory of this process.

    Attributes:
        growth: bytes at the peak above those at the start.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._before, self.growth, self._stopped = resident_bytes(), 0, threading.Event()

    def run(self) -> None:
        """Sample until `stop`."""
        while not self._stopped.wait(SAMPLING):
            self.growth = max(self.growth, resident_bytes() - self._before)

    def stop(self) -> int:
        """Return the growth."""
        self._stopped.set()
        self.join()
        return self.growth


def release_freed_memory() -> None:
    """Return the memory to the kernel that the allocator of the host keeps."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


class CountingReader(RangeReader):
    """Reader that counts the bytes that are read from another one."""

    def __init__(self, reader: RangeReader) -> None:
        self.reader, self.bytes = reader, 0

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """See `RangeReader.read`."""
        return self._count(self.reader.read(name, start, stop))

    def shape(self, name: str) -> tuple[int, ...]:
        """See `RangeReader.shape`."""
        return self.reader.shape(name)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._count(self.reader[name])

    def __iter__(self):
        return iter(self.reader)

    def __len__(self) -> int:
        return len(self.reader)

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        self.bytes += tensor.nbytes
        return tensor


def bytes_of_read_calls() -> int:
    """Return the bytes that this process has read by system calls: those that it hashed."""
    return int(Path("/proc/self/io").read_text().split()[1])


class Saving:
    """Saving by a prepared engine, in both ways."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.writer = CheckpointWriter(engine, folder, keep=1)
        self.images = 0

    def save(self, way: str) -> dict[str, float]:
        """Save once; return seconds that training stands still, and until it is written."""
        engine = self.engine
        self.images += 8
        engine.sum(torch.zeros((), device=engine.device))  # the ranks begin together
        begun = time.perf_counter()
        if way == "slices":
            self.writer.start(self.images, {}, {}, lambda: None)
            still = time.perf_counter() - begun
            self.writer.finish()
        else:
            average = (*engine.gather(AVERAGE), *engine.buffers())
            tensors = {
                "weights": engine.collect(engine.weights()),
                "average": engine.collect(average),
                "optimizer": engine.collect(engine.optimizer_state()),
                "adversary": {},
            }
            saved = Checkpoint(self.images, state={}, **tensors)
            engine.on_main(lambda: checkpoint.save(self.folder, saved, keep=1) and None)
            still = time.perf_counter() - begun
        return {"still": still, "written": time.perf_counter() - begun}

    def gather(self, bucket: int | None) -> float:
        """Return the seconds of gathering the EMA; None: by the default buckets."""
        options = {} if bucket is None else {"bucket": bucket}
        self.engine.sum(torch.zeros((), device=self.engine.device))
        begun = time.perf_counter()
        for _ in self.engine.gather(AVERAGE, **options):
            pass
        return time.perf_counter() - begun


def make_model(size: str) -> VAE:
    """Build a model of random weights on the current device."""
    return VAE(ModelConfig(size=size, start="random"), SIDE, SIDE)


def start(engine: Engine, size: str) -> dict[str, float]:
    """Build the model as a run does that does not resume; return the seconds."""
    begun = time.perf_counter()
    model = make_model(size).to(engine.device)
    engine.prepare(model, build_optimizer(model, OptimizerConfig()), **PREPARED)
    engine.keep_average()
    return {"start": time.perf_counter() - begun}


def resume(engine: Engine, way: str, size: str, folder: Path) -> dict[str, float]:
    """Build the model and load all that a resume reads; return seconds and the bytes read."""
    (path,) = checkpoint.list_checkpoints(folder)
    engine.sum(torch.zeros((), device=engine.device))
    begun, hashed = time.perf_counter(), bytes_of_read_calls()
    is_former = way != "slices"
    share = (0, 1) if is_former else (engine.rank, engine.world_size)
    saved = checkpoint.open_share(path, *share)
    hashed = bytes_of_read_calls() - hashed
    parts = ("weights", "average", "optimizer")
    readers = {part: CountingReader(getattr(saved, part)) for part in parts}
    held: dict[str, Any] = dict(readers)
    if is_former:
        held = {part: {k: v.clone() for k, v in each.items()} for part, each in readers.items()}
        model = make_model(size).to(engine.device)
        model.load_state_dict(held["weights"])
        engine.prepare(model, build_optimizer(model, OptimizerConfig()), **PREPARED)
    else:
        model = build_model(lambda: make_model(size), engine, readers["weights"])
        optimizer = build_optimizer(model, OptimizerConfig())
        distribute_model(model, optimizer, engine, readers["weights"], **PREPARED)
    engine.keep_average()
    engine.load_optimizer_state(held["optimizer"])
    engine.scatter(AVERAGE, held["average"])
    seconds = time.perf_counter() - begun
    return {"load": seconds, "read": hashed + sum(reader.bytes for reader in readers.values())}


def forget_model(engine: Engine) -> None:
    """Let an engine prepare another model; the memory of the one before is free then."""
    vars(engine).update(dict.fromkeys(("model", "module", "adamw", "optimizer")))
    vars(engine).pop("_partitions", None)  # of ZeRO


def run_rank(size: str, way: str, rounds: int, folder: Path) -> NoReturn:
    """Run one rank, print the largest values of all ranks as JSON, and end the process."""
    engine = start_engine(running_launch(os.environ), "no")
    torch.manual_seed(0)
    model = make_model(size).to(engine.device)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    found["tensors"] = len(list(model.parameters()))
    del model
    start(engine, size)
    saving = Saving(engine, folder)

    def load(way: str) -> dict[str, float]:
        return resume(engine, way, size, folder)

    def repeat(
        action: Callable[[str], dict[str, float]], memory: str, *, is_prepared: bool
    ) -> None:
        for _ in range(rounds):
            if not is_prepared:
                forget_model(engine)
            release_freed_memory()
            meter = Meter()
            meter.start()
            measured = action(way)
            measured[memory] = meter.stop()
            for name, value in measured.items():
                values = torch.tensor([[value]], dtype=torch.float64, device=engine.device)
                found.setdefault(name, []).append(float(engine.gather_equal(values).max()))

    repeat(saving.save, "memory of a save", is_prepared=True)
    for name, bucket in (("gather by parameter", 1), ("gather by bucket", None)):
        found[name] = [saving.gather(bucket) for _ in range(rounds)]
    repeat(load, "memory of a load", is_prepared=False)
    repeat(lambda _: start(engine, size), "memory of a start", is_prepared=False)
    engine.log(MARKER + json.dumps(found))
    engine.shut_down(0)


def launch(
    engine: str, way: str, size: str, rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Start the ranks of an engine; return the largest value of all ranks by name and round."""
    environment = dict(os.environ)
    if device.type == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    ranks = default_processes(ENGINES[engine], environment)
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(engine_file(engine)), "--num_processes", str(ranks)]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--measure", size, "--way", way, "--rounds", str(rounds), "--folder", folder]
        done = subprocess.run(
            [*command, __file__, *options],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(MARKER)]
    return json.loads(line.removeprefix(MARKER))


def results_of(engine: str, way: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of one engine and way."""
    rows = [
        ("training stands still", "s", "still", 1.0),
        ("until a save is written", "s", "written", 1.0),
        ("memory of a save", "MB a rank", "memory of a save", 1e6),
        ("load", "s", "load", 1.0),
        ("read by a rank in a load", "MB", "read", 1e6),
        ("memory of a load", "MB a rank", "memory of a load", 1e6),
        ("memory of a start without a load", "MB a rank", "memory of a start", 1e6),
    ]
    entries = [
        report.result(
            group, f"{engine}, {way}", unit, [v / scale for v in found[key]], better="lower"
        )
        for group, unit, key, scale in rows
    ]
    if way == WAYS[-1]:
        for key in ("gather by parameter", "gather by bucket"):
            name = f"{engine}, {key.removeprefix('gather ')}"
            entries.append(
                report.result("gather of the EMA", name, "s", found[key], better="lower")
            )
    return entries


def main() -> int:
    """Run the command and return the exit status."""
    parser = harness.parser("checkpoints", __doc__)
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=COMPARED,
        default=["ddp", "zero3", "fsdp2"],
        help="default: ddp zero3 fsdp2",
    )
    internal = parser.add_argument_group("internal, of one rank")
    internal.add_argument("--measure", metavar="SIZE")
    internal.add_argument("--way", choices=WAYS)
    internal.add_argument("--rounds", type=int, default=0)
    internal.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.measure:
        run_rank(arguments.measure, arguments.way, arguments.rounds, arguments.folder)
    size, rounds = ("tiny", 2) if arguments.quick else ("base", 5)
    results: list[dict[str, Any]] = []
    cases = [(engine, way) for engine in arguments.engines for way in WAYS]
    for engine, way in cli.progress(cases, unit="case"):
        found = launch(engine, way, size, rounds, arguments.device)
        results += results_of(engine, way, found)
    groups = dict.fromkeys(entry["group"] for entry in results if entry["group"][:6] != "gather")
    record = report.record(
        "checkpoints",
        quick=arguments.quick,
        settings={
            "seed": arguments.seed,
            "rounds": rounds,
            "warmup": 0,
            "device": str(arguments.device),
            "model.size": size,
            "parameters": found["parameters"],
            "tensors": found["tensors"],
        },
        packages=["accelerate", "deepspeed", "safetensors"],
        results=results,
        comparisons=[
            report.compare(results, group, f"{engine}, {WAYS[1]}", f"{engine}, {WAYS[0]}", None)
            for group in groups
            for engine in arguments.engines
        ],
    )
    report.publish(record, arguments.out)
    return 0


if __name__ == "__main__":
    cli.run("benchmarks.checkpoints", main)
