"""Memory of a GPU under an engine, and the micro batch that fits into it."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.support.memory import REST, largest_that_fits, predicted_state
from launch.planning.inputs import Cluster, ModelSizes
from vaetrain.engines.spec import EngineSpec
from vaetrain.engines.zero import BUCKET

GIB = 2**30
STATE = 20  # bytes a parameter of weights, gradients, moments and EMA in fp32
ZERO3_LIVE = 1_000_000_000  # DeepSpeed's default of parameters that a rank keeps gathered


@dataclass(frozen=True)
class EngineMemory:
    """Bytes of a rank's state under an engine, without activations.

    Attributes:
        device, host: on the GPU, and in host memory.
        gathered: weights and gradients of other ranks, and buffers of collectives, on the GPU.
    """

    device: float
    host: float
    gathered: float


def engine_memory(
    spec: EngineSpec, model: ModelSizes, copy_size: int, *, keeps_gradients: bool = False
) -> EngineMemory:
    """Return the memory of a rank's state: fp32 weights, gradients, moments and EMA.

    `benchmarks.engine_memory` compares the first with measurements. What is gathered is estimated:
    FSDP2 holds gathered weights and one unit's gradients twice, before and in the reduce-scatter;
    DeepSpeed has a buffer of `BUCKET` elements each for reductions and gathers.

    Args:
        copy_size: number of ranks over which a copy of the model is divided.
        keeps_gradients: whether FSDP2 reduces the sum of several micro batches.
    """
    parameters = model.weights.parameters
    whole, share = 4.0 * parameters, 4.0 * parameters / copy_size
    kinds = predicted_state(spec.name, parameters, copy_size)
    host, gathered = 0.0, 0.0
    if spec.distributed_type == "FSDP":
        gathered = 4.0 * (model.gathered + 2 * model.largest_unit)
        if keeps_gradients:
            gathered += whole
        if spec.offload:
            host, kinds = sum(kinds.values()), {}
    elif spec.distributed_type == "DEEPSPEED":
        gathered = 2 * min(4.0 * BUCKET, whole)
        if spec.stage == 3:
            gathered += min(whole, 4.0 * ZERO3_LIVE)
        if spec.offload:
            # The optimised weights, moments and EMA; in stage 3 also those of the forward pass.
            host = share + kinds["moments"] + kinds["average"]
            kinds = {"weights": whole, REST: kinds[REST]}
            if spec.stage == 3:
                host += share
                kinds["weights"] = 0.0
    return EngineMemory(sum(kinds.values()), host, gathered)


def peak(model: ModelSizes, state: EngineMemory, pages: int) -> float:
    """Return the peak bytes of a step of `pages` of the tallest pages on a GPU.

    The rest of one process's predicted peak are activations, which no engine changes.
    """
    activations = model.peak(pages) - STATE * model.weights.parameters
    return activations + state.device + state.gathered


def largest_micro_batch(model: ModelSizes, state: EngineMemory, cluster: Cluster) -> int:
    """Return the largest number of the tallest pages that fits; 0 if there is none."""
    limit = (1 - cluster.free_share) * cluster.gpu_memory * GIB
    own = state.device + state.gathered - STATE * model.weights.parameters
    return largest_that_fits(model.peak, int(limit - own))
