"""Inputs of a plan: the cluster, the pages of an index, and the sizes of a model."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from benchmarks.support import memory
from benchmarks.support.batch_size.launches import count_launches
from benchmarks.support.batch_size.trainer_step import work_of_a_step
from benchmarks.support.flops import model_flops, validation_flops
from benchmarks.support.scaling_model import WeightSizes
from shards.building.options import BuildOptions
from shards.errors import UserError
from shards.format.index import BLOCK
from shards.open import open_index
from shards.reading.height_ladder import height_ladder
from shards.reading.selection import select
from vaetrain.config.experiment import Experiment
from vaetrain.engines.fsdp import fsdp_units
from vaetrain.engines.spec import SHARD_SIZE, Launch
from vaetrain.model.vae import VAE
from vaetrain.settings import AUTO

CUDA = torch.device("cuda", 0)
SAMPLED = 4096  # pages whose height and bytes are averaged
PERSISTENT = 100_000  # DeepSpeed's stage3_param_persistence_threshold
# Peak rates of an H100 SXM in 10^12 FLOP/s, dense (NVIDIA's data sheet of 2023).
PEAKS = {"bf16": 989.0, "fp16": 989.0, "tf32": 495.0, "no": 67.0}


@dataclass(frozen=True)
class Cluster:
    """Machines and their assumed rates.

    Attributes:
        nodes, gpus: machines, and GPUs of each; a GPU has one rank.
        gpu_memory: of a GPU in GiB, of which `free_share` stays free for workspaces.
        gpu_tflops: peak rate of a GPU, 10^12 FLOP/s; None: that of an H100 in the precision.
        utilisation: share of the peak rate that a training reaches.
        launch_us: 10^-6 s that the host takes to start an operation on a GPU.
        gpu_link_gb: 10^9 bytes/s between GPUs of a machine, per GPU and direction.
        network_gbit: 10^9 bit/s of a machine's network, per direction.
        disk_mb: 10^6 bytes/s that a machine writes.
        host_gb: 10^9 bytes/s that a GPU copies to host memory.
        validation_seconds: work of the main process in a validation, besides the model's.
    """

    nodes: int
    gpus: int
    gpu_memory: float = 80.0
    free_share: float = 0.1
    gpu_tflops: float | None = None
    utilisation: float = 0.2
    launch_us: float = 5.0
    gpu_link_gb: float = 360.0
    network_gbit: float = 3200.0
    disk_mb: float = 1000.0
    host_gb: float = 10.0
    validation_seconds: float = 6.4

    @property
    def ranks(self) -> int:
        """The world size."""
        return self.nodes * self.gpus


@dataclass(frozen=True)
class Rate:
    """Training rate of one GPU that was measured: images a second, and its source."""

    images_per_second: float
    source: str


@dataclass(frozen=True)
class Pages:
    """Training and validation pages.

    Attributes:
        train, val: numbers of pages.
        page_bytes: mean bytes of a training page in its shard.
        train_bytes: bytes of the shards of the training pages.
        rows: mean rows of a training page with padding to the next height.
        cached: whether a server's shards stay in a node's cache; None: they are on a disk.
        basis, source: of the numbers.
        shards: number of shards of the training pages.
    """

    train: int
    val: int
    page_bytes: float
    train_bytes: float
    rows: float
    cached: bool | None
    basis: str
    source: str
    shards: int = 1


def read_pages(experiment: Experiment) -> Pages:
    """Return the pages of an experiment from its index; no shard is read.

    Raises DamagedShards where there is none, and UserError for an unknown address or no pages.
    """
    data = experiment.data
    index = open_index(data.folder, data.cache)
    sizes = {"width": data.width, "max_height": data.max_height}
    train, val = (
        select(index, split, **sizes, val_templates=data.val_templates)
        for split in ("train", "val")
    )
    if not len(train):
        raise UserError(f"data.shards: {index.location}: no pages to train on")
    some = train.spaced(SAMPLED)
    places = np.arange(len(some))
    ladder = height_ladder(data.max_height, VAE.stride)
    padded = ladder[np.searchsorted(ladder, some.heights_at(places))]
    blocks = index.table[some.ids_at(places)]["blocks"]
    size = sum(shard.bytes for shard in index.shards) / len(index) * len(train)
    return Pages(
        train=len(train),
        val=len(val),
        page_bytes=float(blocks.mean()) * BLOCK,
        train_bytes=size,
        rows=float(padded.mean()),
        cached=None if index.cache is None else size <= data.cache.bytes,
        basis="counted",
        source=f"index of {index.location}",
        shards=len(train.starts) - 1,
    )


def assumed_pages(experiment: Experiment, train: int, val: int, page_bytes: float) -> Pages:
    """Return pages without an index, all of the largest height."""
    top = float(height_ladder(experiment.data.max_height, VAE.stride)[-1])
    source = "--samples, --val-samples, --bytes-per-sample; all of data.max_height"
    size = train * page_bytes
    shards = math.ceil(size / (BuildOptions().shard_mb * 2**20))
    return Pages(train, val, page_bytes, size, top, None, "set", source, shards)


def read_rate(path: Path) -> Rate:
    """Return the trainer's rate on one GPU from the file of `python -m benchmarks.throughput`.

    Raises UserError if the file is another one, or has no rate of one process.
    """
    try:
        record = json.loads(path.read_text())
        device = record["settings"]["device"]
        (entry,) = [
            each
            for each in record["results"]
            if (each["group"], each["name"]) == ("images per second", "ours, single")
        ]
        rate = float(entry["median"])
    except OSError as error:
        raise UserError(f"--profile: {path}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError):
        raise UserError(
            f"--profile: {path}: has no rate of the engine single; give the throughput.json that "
            "python -m benchmarks.throughput has written"
        ) from None
    return Rate(rate, f"--profile {path}, on {device}")


def on_gpu(experiment: Experiment, launch: Launch) -> Experiment:
    """Return the experiment with the values that `auto` has on a GPU that computes in bf16.

    It is not compiled: that hardly changes the memory.
    """
    train = experiment.train
    precision = train.precision or launch.precision
    settings = {
        "precision": "bf16" if precision == AUTO else precision,
        "channels_last": True if train.channels_last == AUTO else train.channels_last,
        "compile": False,
    }
    return dataclasses.replace(experiment, train=dataclasses.replace(train, **settings))


def copy_size_of(launch: Launch, cluster: Cluster) -> int:
    """Return the number of ranks over which a copy of the model is divided."""
    if not launch.spec.hybrid:
        return cluster.ranks
    size = int(dict(launch.options)[SHARD_SIZE])
    return cluster.gpus if size == 1 else size


class ModelSizes:
    """Sizes of a model, from tensors without data.

    Attributes:
        weights: numbers of parameters, as the collectives of the engines need them.
        buffers: bytes of the tensors that are saved but not trained.
        gathered: the largest number of parameters that a rank of FSDP2 holds at once: those outside
            all units, and two units, as the next one is fetched while one is used.
        largest_unit: number of parameters of the largest unit.
    """

    def __init__(self, experiment: Experiment, launch: Launch) -> None:
        """Build the model without memory; the experiment is one of `on_gpu`."""
        self.experiment, data = experiment, experiment.data
        options = dict(launch.options)
        with torch.device("meta"):
            model = VAE(experiment.model, data.width, data.max_height)
        sizes = [parameter.numel() for parameter in model.parameters()]
        self.buffers = sum(buffer.nbytes for buffer in model.buffers())
        units = _unit_sizes(model, int(options.get("fsdp_min_num_params", 0)))
        total = sum(sizes)
        keeps = options.get("fsdp_reshard_after_forward") == "false"
        self.weights = WeightSizes(
            total,
            gathered_again=0 if keeps else sum(units),
            persistent=sum(size for size in sizes if size < PERSISTENT),
        )
        self.largest_unit = max(units, default=total)
        self.gathered = total if keeps else total - sum(units) + sum(sorted(units)[-2:])
        self._peaks: dict[int, int] = {}

    @cached_property
    def ladder(self) -> np.ndarray:
        """Heights that batches are padded to."""
        return height_ladder(self.experiment.data.max_height, VAE.stride)

    def peak(self, pages: int) -> int:
        """Return the predicted peak bytes of a step of the tallest pages on one GPU.

        Whole weights, gradients, moments and EMA are included.
        """
        if pages not in self._peaks:
            size = (int(self.ladder[-1]), self.experiment.data.width)
            work = work_of_a_step(self.experiment, pages, size)
            self._peaks[pages] = memory.predict(work, CUDA)
        return self._peaks[pages]

    def flops(self, rows: float) -> tuple[float, float]:
        """Return the FLOPs of a page in training, forward and backward, and in a validation.

        Counted for pages of the largest height, to which they are nearly proportional; those of
        losses are not counted.
        """
        data, top = self.experiment.data, int(self.ladder[-1])
        shape = (self.experiment.model, data.width, data.max_height)
        share = rows / top
        return model_flops(*shape, 1, top) * share, validation_flops(*shape, top) * share

    def launches(self, accumulation: int) -> int:
        """Return the operations that the host starts in a step without torch.compile."""
        counts = count_launches(self.experiment, 1, int(self.ladder[-1]))
        passes = counts["forward"] + counts["backward"]
        return accumulation * passes + counts["optimizer"] + counts["ema"]


def _unit_sizes(model: VAE, min_parameters: int) -> list[int]:
    """Return the number of parameters of each unit of FSDP2; none without a minimum size."""
    sizes: list[int] = []
    inside: set[torch.nn.Parameter] = set()
    for unit in fsdp_units(model, min_parameters) if min_parameters else ():
        own = set(unit.parameters()) - inside
        inside |= own
        sizes.append(sum(parameter.numel() for parameter in own))
    return sizes
