"""Time of a data-parallel step on N ranks, predicted from measurements of one rank and of a link.

    step(N) = E[compute time of the slowest of N ranks] + communication that is not overlapped

Times are in seconds and sizes in bytes. A bandwidth is bytes per second of one rank, per direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vaetrain.engines.config import EngineConfig
from vaetrain.engines.spec import ENGINES, EngineSpec

BACKWARD = 2 / 3  # share of compute time; backward has twice the FLOPs of forward
BUCKET, FIRST_BUCKET = 25 * 2**20, 2**20  # DDP's bucket sizes in bytes


@dataclass(frozen=True)
class Collective:
    """Collectives of one kind in an optimizer step, over the ranks of a copy of the model.

    Attributes:
        kind: `all-reduce`, `reduce-scatter` or `all-gather`.
        tensors: `gradients` or `weights`.
        bytes: of the whole tensors, of all calls of the step together.
        between_copies: whether it is between the ranks that hold the same slices of the copies.
    """

    kind: str
    tensors: str
    bytes: float
    between_copies: bool = False

    @property
    def as_all_reduce(self) -> float:
        """Bytes of the all-reduces that send as much.

        A reduce-scatter and an all-gather send half of it (Patarasuk and Yuan 2009).
        """
        return self.bytes if self.kind == "all-reduce" else self.bytes / 2


@dataclass(frozen=True)
class WeightSizes:
    """Numbers of parameters of a model, as the collectives of the engines need them.

    Attributes:
        parameters: all.
        gathered_again: of FSDP2's units, which are gathered again in the backward pass.
        persistent: in small tensors, which ZeRO-3 gathers after a step and then keeps.
    """

    parameters: int
    gathered_again: int
    persistent: int


REUSED = 1_000_000_000  # DeepSpeed's stage3_max_reuse_distance, in parameters


def step_collectives(
    spec: EngineSpec,
    sizes: WeightSizes,
    accumulation: int,
    config: EngineConfig | None = None,
) -> list[Collective]:
    """Return the collectives of an optimizer step on weights, which are fp32, and gradients.

    Rajbhandari et al. 2020, section 7, with what the engines do otherwise:

    - ZeRO-1 and ZeRO-2: DeepSpeed all-reduces the gradients and drops the parts of other ranks,
      where a reduce-scatter would send half as much.
    - ZeRO-3 gathers the weights once a micro batch, not twice, if they are used again in the
      backward pass before `REUSED` other parameters.
    - FSDP2 gathers the weights outside all units once a micro batch, and units twice.

    They were counted on two gloo ranks (NOTES.md). Scalars, such as the norm of the gradients, are
    left out.

    Args:
        accumulation: micro batches of a step.
        config: None: the defaults.
    """
    config = config or EngineConfig()
    whole = 4.0 * sizes.parameters
    gradients = whole / 2 if config.reduce_dtype == "bf16" else whole
    if not spec.has_process_group:
        return []
    if spec.stage == 0:
        return [Collective("all-reduce", "gradients", gradients)]
    if spec.stage < 3:
        reductions = accumulation if spec.stage == 2 else 1
        return [
            Collective("all-reduce", "gradients", reductions * gradients),
            Collective("all-gather", "weights", whole),
        ]
    reductions = accumulation
    if spec.distributed_type == "FSDP":
        reductions = accumulation if config.reduces_each(offload=spec.offload) else 1
        gathered = accumulation * (whole + 4.0 * sizes.gathered_again)
    else:
        times = 1 if 2 * sizes.parameters <= REUSED else 2
        kept = 4.0 * sizes.persistent
        gathered = accumulation * times * (whole - kept) + kept
    return [
        Collective("reduce-scatter", "gradients", reductions * gradients),
        Collective("all-gather", "weights", gathered),
        *_between_copies(spec, gradients, accumulation, config),
    ]


def _between_copies(
    spec: EngineSpec, gradients: float, accumulation: int, config: EngineConfig
) -> list[Collective]:
    """Return the collectives between the copies of the model, if the engine has several."""
    if not spec.hybrid:
        return []
    # In bf16, FSDP2 would add up micro batches in bf16.
    reductions = accumulation if config.reduce_dtype == "bf16" else 1
    return [Collective("all-reduce", "gradients", reductions * gradients, between_copies=True)]


# Bytes sent in a step of one micro batch, as a multiple of one all-reduce of the gradients; for
# FSDP2 with all weights in units.
TRAFFIC = {
    spec.name: sum(each.as_all_reduce for each in step_collectives(spec, WeightSizes(1, 1, 0), 1))
    / 4
    for spec in ENGINES.values()
    if spec.has_process_group and not spec.offload and not spec.hybrid
}


@dataclass(frozen=True)
class Link:
    """Link between ranks: seconds per message, and bytes per second of each rank."""

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Interconnect:
    """Machines of `per_machine` ranks: the links inside a machine and between machines."""

    name: str
    inside: Link
    between: Link
    per_machine: int = 8


INTERCONNECTS = (
    Interconnect("NVLink 4, 400 Gb/s a GPU", Link(3e-6, 360e9), Link(10e-6, 45e9)),
    Interconnect("PCIe 4, 100 Gb/s a machine", Link(10e-6, 20e9), Link(30e-6, 1.4e9)),
    Interconnect("PCIe 4, 25 Gb/s a machine", Link(10e-6, 20e9), Link(30e-6, 0.35e9)),
)
"""Assumptions, not measurements. Network links have 0.9 of their nominal rate; NVLink and PCIe have
the rates that all-reduces typically reach."""


def fit_link(sizes: Sequence[int], seconds: Sequence[float]) -> Link:
    """Fit a link to times of all-reduces between two ranks, by least squares of relative errors.

    Between two ranks an all-reduce sends each byte once in each direction, in two messages.
    """
    terms = np.stack([np.full(len(sizes), 2.0), np.asarray(sizes, float)], axis=1)
    weighted = terms / np.asarray(seconds)[:, None]
    latency, per_byte = np.linalg.lstsq(weighted, np.ones(len(sizes)), rcond=None)[0]
    return Link(max(float(latency), 0.0), 1 / max(float(per_byte), 1e-15))


def all_reduce_seconds(size: float, ranks: int, link: Link, messages: int = 1) -> float:
    """Return the time of an all-reduce that uses the whole bandwidth.

    Each rank sends 2 (N - 1) / N of the bytes (Patarasuk and Yuan 2009). They are sent along two
    trees at once (Sanders et al. 2009), as in NCCL between machines, so the latency grows with
    log2(N).

    Args:
        messages: number of buckets that the bytes are cut into.
    """
    if ranks == 1:
        return 0.0
    steps = 2 * math.ceil(math.log2(ranks))
    return messages * steps * link.latency + 2 * (ranks - 1) / ranks * size / link.bandwidth


def over_machines(size: float, ranks: int, interconnect: Interconnect) -> float:
    """Return the time of an all-reduce inside machines, followed by one between machines."""
    local_ranks = min(ranks, interconnect.per_machine)
    machines = -(-ranks // interconnect.per_machine)
    messages = buckets(size)
    inside = all_reduce_seconds(size, local_ranks, interconnect.inside, messages)
    return inside + all_reduce_seconds(size / local_ranks, machines, interconnect.between, messages)


def buckets(size: float) -> int:
    """Return the number of buckets that DDP cuts gradients of `size` bytes into."""
    return 1 + math.ceil(max(0.0, size - FIRST_BUCKET) / BUCKET)


def expected_max(draws: Sequence[float], ranks: int) -> float:
    """Return the expected maximum of `ranks` values, each drawn at random from `draws`."""
    ordered = np.sort(np.asarray(draws, float))
    below = (np.arange(len(ordered) + 1) / len(ordered)) ** ranks
    return float((ordered * np.diff(below)).sum())


def hidden_share(size: float) -> float:
    """Return the share of communication that can overlap with the backward pass.

    All buckets except the last can overlap, because the last bucket is complete only at the end of
    the backward pass (Li et al. 2020, section 3.2.3).
    """
    return max(0.0, 1 - BUCKET / size)


def step_seconds(
    computing: Sequence[float],
    ranks: int,
    sending: float,
    hidden: float,
    overlapped: float = 1.0,
) -> float:
    """Return the time of a step on `ranks` ranks.

    Args:
        computing: compute times of one rank in many steps.
        sending: time of a step's communication by itself.
        hidden: share of the communication that can overlap. The overlap is at most as long as the
            backward pass.
        overlapped: share of the backward pass in which there is communication.
    """
    backward = overlapped * BACKWARD * float(np.mean(computing))
    return expected_max(computing, ranks) + sending - hidden * min(sending, backward)
