"""How long a data-parallel step takes on N ranks, from measurements of one rank and of a link.

    step(N) = E[the slowest of N ranks' computing] + the part of communication that nothing hides

All times in seconds, sizes in bytes, bandwidths in bytes a second and direction of one rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BACKWARD = 2 / 3  # of a step's computing: twice the forward pass' FLOPs
BUCKET, FIRST_BUCKET = 25 * 2**20, 2**20  # DDP's; the last is sent when all is computed

# What a step sends, in all-reduces of the gradients (Rajbhandari et al. 2020, section 7): a
# reduce-scatter and an all-gather are half of one each; stage 3 gathers weights twice.
TRAFFIC = {"ddp": 1.0, "zero1": 1.0, "zero2": 1.0, "zero3": 1.5, "fsdp2": 1.5}


@dataclass(frozen=True)
class Link:
    """What ranks send through: seconds a message, bytes a second of each rank."""

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Interconnect:
    """Machines of `per_machine` ranks: how these are joined, and how machines are."""

    name: str
    inside: Link
    between: Link
    per_machine: int = 8


INTERCONNECTS = (
    Interconnect("NVLink 4, 400 Gb/s a GPU", Link(3e-6, 360e9), Link(10e-6, 45e9)),
    Interconnect("PCIe 4, 100 Gb/s a machine", Link(10e-6, 20e9), Link(30e-6, 1.4e9)),
    Interconnect("PCIe 4, 25 Gb/s a machine", Link(10e-6, 20e9), Link(30e-6, 0.35e9)),
)
"""Assumed, not measured: nominal rates less a tenth; NVLink and PCIe as all-reduces reach them."""


def fit_link(sizes: Sequence[int], seconds: Sequence[float]) -> Link:
    """The link whose all-reduces between two ranks take these times, least squares of ratios.

    Between two ranks an all-reduce sends each byte once either way, in two messages.
    """
    terms = np.stack([np.full(len(sizes), 2.0), np.asarray(sizes, float)], axis=1)
    weighed = terms / np.asarray(seconds)[:, None]
    latency, per_byte = np.linalg.lstsq(weighed, np.ones(len(sizes)), rcond=None)[0]
    return Link(max(float(latency), 0.0), 1 / max(float(per_byte), 1e-15))


def all_reduce_seconds(size: float, ranks: int, link: Link, messages: int = 1) -> float:
    """An all-reduce that uses the whole bandwidth, with a latency that grows by doubling.

    2 (N - 1) / N bytes for each (Patarasuk and Yuan 2009), along two trees at once (Sanders et al.
    2009), which is what NCCL does over machines.

    Args:
        messages: into how many buckets the bytes are cut.
    """
    if ranks == 1:
        return 0.0
    steps = 2 * math.ceil(math.log2(ranks))
    return messages * steps * link.latency + 2 * (ranks - 1) / ranks * size / link.bandwidth


def over_machines(size: float, ranks: int, joined: Interconnect) -> float:
    """An all-reduce inside machines, and of each rank's share of the sums between them."""
    here = min(ranks, joined.per_machine)
    machines = -(-ranks // joined.per_machine)
    messages = buckets(size)
    inside = all_reduce_seconds(size, here, joined.inside, messages)
    return inside + all_reduce_seconds(size / here, machines, joined.between, messages)


def buckets(size: float) -> int:
    """Into how many buckets DDP cuts gradients of so many bytes."""
    return 1 + math.ceil(max(0.0, size - FIRST_BUCKET) / BUCKET)


def expected_max(draws: Sequence[float], ranks: int) -> float:
    """The mean of the largest of `ranks` values, each drawn at random from `draws`."""
    ordered = np.sort(np.asarray(draws, float))
    below = (np.arange(len(ordered) + 1) / len(ordered)) ** ranks
    return float((ordered * np.diff(below)).sum())


def hidden_share(size: float) -> float:
    """The share of communication that a device can hide which sends while it computes.

    All buckets but the last (Li et al. 2020, section 3.2.3).
    """
    return max(0.0, 1 - BUCKET / size)


def step_seconds(computing: Sequence[float], ranks: int, sending: float, hidden: float) -> float:
    """A step on `ranks` ranks.

    Args:
        computing: how long one rank computed in each of many steps.
        sending: how long the communication of a step takes alone.
        hidden: share of it, as far as the backward pass lasts, that costs nothing.
    """
    slowest = expected_max(computing, ranks)
    return slowest + sending - hidden * min(sending, BACKWARD * float(np.mean(computing)))
