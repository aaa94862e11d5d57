"""Collectives of every engine, and the bytes that GPUs and nodes send for them."""

from __future__ import annotations

import pytest

from benchmarks.support.scaling_model import REUSED, Collective, WeightSizes, step_collectives
from launch.planning.inputs import Cluster
from launch.planning.traffic import Traffic
from vaetrain.engines.config import EngineConfig
from vaetrain.engines.spec import ENGINES

SIZES = WeightSizes(1000, 600, 50)
# Bytes of the collectives of a step of three micro batches, of 4,000 bytes of weights: 2,400 bytes
# of them in units of FSDP2, 200 in small tensors that ZeRO-3 keeps. A machine of two sends half of
# an all-reduce twice, and half of a reduce-scatter or an all-gather once.
REDUCE, SCATTER, GATHER = (
    ("all-reduce", "gradients"),
    ("reduce-scatter", "gradients"),
    ("all-gather", "weights"),
)
COLLECTIVES = {
    "single": ({}, 0),
    "ddp": ({REDUCE: 4000}, 4000),
    "zero1": ({REDUCE: 4000, GATHER: 4000}, 4000 + 2000),
    "zero1_offload": ({REDUCE: 4000, GATHER: 4000}, 4000 + 2000),
    "zero2": ({REDUCE: 3 * 4000, GATHER: 4000}, 3 * 4000 + 2000),
    "zero2_offload": ({REDUCE: 3 * 4000, GATHER: 4000}, 3 * 4000 + 2000),
    "zero3": ({SCATTER: 3 * 4000, GATHER: 3 * 3800 + 200}, 3 * 2000 + 3 * 1900 + 100),
    "zero3_offload": ({SCATTER: 3 * 4000, GATHER: 3 * 3800 + 200}, 3 * 2000 + 3 * 1900 + 100),
    "fsdp2": ({SCATTER: 4000, GATHER: 3 * 6400}, 2000 + 3 * 3200),
    "fsdp2_offload": ({SCATTER: 3 * 4000, GATHER: 3 * 6400}, 3 * 2000 + 3 * 3200),
    "fsdp2_hybrid": ({SCATTER: 4000, GATHER: 3 * 6400, REDUCE: 4000}, 4000),
}
# The same bytes of gradients in bf16. FSDP2 reduces every micro batch then, also between copies.
IN_BF16 = {
    "ddp": {REDUCE: 2000},
    "zero1": {REDUCE: 2000},
    "zero2": {REDUCE: 3 * 2000},
    "zero3": {SCATTER: 3 * 2000},
    "fsdp2": {SCATTER: 3 * 2000},
    "fsdp2_hybrid": {SCATTER: 3 * 2000, REDUCE: 3 * 2000},
}


@pytest.mark.parametrize("engine", COLLECTIVES)
def test_traffic_of_every_engine_is_that_by_hand(engine):
    expected, by_node = COLLECTIVES[engine]
    collectives = step_collectives(ENGINES[engine], SIZES, 3, EngineConfig())
    assert {(each.kind, each.tensors): each.bytes for each in collectives} == expected
    copy_size = 2 if engine == "fsdp2_hybrid" else 4
    assert Traffic.of(collectives, Cluster(2, 2), copy_size).sent_by_node == by_node


@pytest.mark.parametrize("engine", IN_BF16)
def test_gradients_in_bf16_are_half_as_large(engine):
    collectives = step_collectives(ENGINES[engine], SIZES, 3, EngineConfig(reduce_dtype="bf16"))
    found = {(e.kind, e.tensors): e.bytes for e in collectives if e.tensors == "gradients"}
    assert found == IN_BF16[engine]


@pytest.mark.parametrize(
    ("copy_size", "by_gpu", "by_node"),
    [
        # Of 12,000 bytes over a copy and 800 between copies, by each of 2 nodes of 4 GPUs.
        (8, 2 * 7 / 8 * 12_000, 2 * 1 / 2 * 12_000),
        (4, 2 * 3 / 4 * 12_000 + 2 * 1 / 2 * 200, 2 * 1 / 2 * 800),
        (2, 2 * 1 / 2 * 12_000 + 2 * 3 / 4 * 400, 2 * 1 / 2 * 800),
    ],
)
def test_copies_of_the_model_send_little_between_nodes(copy_size, by_gpu, by_node):
    between = [Collective("all-reduce", "gradients", 800, between_copies=True)]
    collectives = [Collective("all-reduce", "gradients", 12_000), *(between * (copy_size < 8))]
    traffic = Traffic.of(collectives, Cluster(2, 4), copy_size)
    assert (traffic.sent_by_gpu, traffic.sent_by_node) == (by_gpu, by_node)
    assert traffic.seconds > 0


def test_a_copy_over_several_nodes_sends_the_slices_of_a_node():
    """A copy on two of four nodes: half of the slices lie on a node."""
    between = Collective("all-reduce", "gradients", 800, between_copies=True)
    traffic = Traffic.of([between], Cluster(4, 2), 4)
    assert (traffic.sent_by_gpu, traffic.sent_by_node) == (200, 400)


def test_a_slow_network_is_spared_by_copies_of_the_model():
    slow = Cluster(16, 8, network_gbit=100.0)
    sizes = WeightSizes(10**9, 10**9, 0)
    times = {}
    for engine, copy_size in (("fsdp2_hybrid", 8), ("fsdp2", 128)):
        collectives = step_collectives(ENGINES[engine], sizes, 4, EngineConfig())
        times[engine] = Traffic.of(collectives, slow, copy_size).seconds
    assert times["fsdp2_hybrid"] < times["fsdp2"] / 3


def test_zero3_gathers_a_model_twice_that_is_too_large_to_keep():
    (_, small), (_, large) = (
        step_collectives(ENGINES["zero3"], WeightSizes(size, 0, 0), 1, EngineConfig())
        for size in (REUSED // 2, REUSED // 2 + 1)
    )
    assert small.bytes == 4 * (REUSED // 2)
    assert large.bytes == 2 * 4 * (REUSED // 2 + 1)
