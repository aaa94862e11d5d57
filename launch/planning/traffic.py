"""Bytes that a GPU and a node send in a step, and the time that this takes by itself.

A copy of the model is divided over the ranks of `copy_size`, which follow each other; it is all
ranks, except under `fsdp2_hybrid`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.support.scaling_model import (
    Collective,
    Interconnect,
    Link,
    all_reduce_seconds,
    buckets,
    over_machines,
)
from launch.planning.inputs import Cluster

NETWORK_SHARE = 0.9  # of the nominal rate
INSIDE_LATENCY, BETWEEN_LATENCY = 3e-6, 10e-6  # seconds, as in `INTERCONNECTS`


@dataclass(frozen=True)
class Traffic:
    """Collectives of a step on a cluster, in bytes of the all-reduces that send as much.

    Attributes:
        within: over the ranks of each copy of the model.
        between: over the copies, of the slices of all ranks of a copy together.
    """

    cluster: Cluster
    copy_size: int
    within: float
    between: float

    @classmethod
    def of(cls, collectives: Sequence[Collective], cluster: Cluster, copy_size: int) -> Traffic:
        """Return the traffic of a step's collectives."""
        sums = [
            sum(each.as_all_reduce for each in collectives if each.between_copies == between)
            for between in (False, True)
        ]
        return cls(cluster, copy_size, *map(float, sums))

    @property
    def copies(self) -> int:
        """Number of copies of the model."""
        return self.cluster.ranks // self.copy_size

    @property
    def sent_by_gpu(self) -> float:
        """Bytes: 2 (N - 1) / N of an all-reduce over N ranks (Patarasuk and Yuan 2009)."""
        slices = self.between / self.copy_size
        return _of_all_reduce(self.copy_size) * self.within + _of_all_reduce(self.copies) * slices

    @property
    def sent_by_node(self) -> float:
        """Bytes sent to other nodes; those of a node are reduced, or shared, inside it first."""
        within = _of_all_reduce(self._nodes_of_copy) * self.within
        return within + _of_all_reduce(self._groups_of_nodes) * self.between * self._share_of_node

    @property
    def seconds(self) -> float:
        """Time of the collectives by themselves."""
        cluster = self.cluster
        network = NETWORK_SHARE * cluster.network_gbit * 1e9 / 8 / cluster.gpus
        links = Link(INSIDE_LATENCY, cluster.gpu_link_gb * 1e9), Link(BETWEEN_LATENCY, network)
        total = 0.0
        if self.within:
            interconnect = Interconnect("plan", *links, cluster.gpus)
            total = over_machines(self.within, self.copy_size, interconnect)
        if self.between:
            in_node = max(1, cluster.gpus // self.copy_size)  # copies
            size, count = self.between / self.copy_size, buckets(self.between)
            total += all_reduce_seconds(size, in_node, links[0], count)
            total += all_reduce_seconds(size / in_node, self._groups_of_nodes, links[1], count)
        return total

    @property
    def _nodes_of_copy(self) -> int:
        return max(1, self.copy_size // self.cluster.gpus)

    @property
    def _groups_of_nodes(self) -> int:
        return self.cluster.nodes // self._nodes_of_copy

    @property
    def _share_of_node(self) -> float:
        """Share of a copy's slices that lie on one node."""
        return min(1.0, self.cluster.gpus / self.copy_size)


def _of_all_reduce(count: int) -> float:
    """Return the bytes that one of `count` members sends, as a multiple of the reduced bytes."""
    return 2 * (count - 1) / count
