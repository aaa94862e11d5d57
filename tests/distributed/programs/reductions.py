"""Collectives of a step's micro batches by an engine without the trainer, counted; prints JSON.

    accelerate launch --config_file ENGINE reductions.py REDUCE_DTYPE,REDUCE_EACH_MICRO_BATCH...

The profiler counts the collectives of gloo in the forward and backward passes of steps of one, two
and four micro batches with the same pages. Also printed are the gradient norms of two such steps,
the gradient of the first one, and the mean over the ranks of the magnitudes of its parts.
"""

import copy
import json
import os
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from vaetrain.engines.base import WEIGHT, Engine
from vaetrain.engines.config import EngineConfig, OptimizerConfig
from vaetrain.engines.optimizers import MOMENTS, build_optimizer
from vaetrain.engines.spec import running_launch
from vaetrain.engines.start import start_engine
from vaetrain.settings import AUTO

PAGES, WIDTH = 8, 8
TYPES = {"float": "fp32", "c10::BFloat16": "bf16"}
EACH = {"true": True, "false": False, AUTO: AUTO}


def pages_of(rank: int) -> torch.Tensor:
    """Return the pages of a rank's step."""
    return torch.randn(PAGES, WIDTH, generator=torch.Generator().manual_seed(rank))


def micro_batches(engine: Engine, count: int) -> None:
    """Run the forward and backward passes of a step."""
    for number, pages in enumerate(pages_of(engine.rank).chunk(count)):
        with engine.micro_batch(last=number == count - 1):
            losses = engine.model(pages).square().mean(1)
            engine.backward(losses, PAGES * engine.world_size)


def magnitudes(engine: Engine, model: nn.Module) -> list[float]:
    """Return the mean over the ranks of the magnitudes of the gradients of their pages."""
    model = copy.deepcopy(model)
    model(pages_of(engine.rank)).square().mean().backward()
    own = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).abs()
    return (engine.sum(own) / engine.world_size).tolist()


def gradient(engine: Engine, config: OptimizerConfig) -> list[float]:
    """Return the gradient of the first step, from the first moment, which was zero before."""
    moments = [tensor.flatten() for _, tensor in engine.gather(MOMENTS[0])]
    return (torch.cat(moments) / (1 - config.beta1)).tolist()


def collectives(recorded: profile) -> dict[str, int]:
    """Return the number of collectives of floats by name and type.

    Gloo has no reduce-scatter; torch uses an all-reduce for it.
    """
    found = (
        (event.name.removeprefix("gloo:"), event.input_dtypes[0])
        for event in recorded.events()
        if event.name.startswith("gloo:")
    )
    return dict(Counter(f"{name} {TYPES[dtype]}" for name, dtype in found if dtype in TYPES))


def main() -> None:
    engine = start_engine(running_launch(os.environ), "no")
    found = {case: steps(engine, *case.split(",")) for case in sys.argv[1:]}
    engine.log("found " + json.dumps(found))
    engine.shut_down(0)


def steps(engine: Engine, reduce_dtype: str, each: str) -> list[dict]:
    """Return what is found in steps of one, two and four micro batches."""
    config, optimizer = EngineConfig(reduce_dtype, EACH[each]), OptimizerConfig()
    found = []
    for count in (1, 2, 4):
        vars(engine).pop("_partitions", None)  # ZeRO's, of the model that was prepared before
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, 2, bias=False))
        sizes = magnitudes(engine, model)
        engine.prepare(
            model,
            build_optimizer(model, optimizer),
            micro_batch=PAGES // count,
            accumulation=count,
            clip_norm=0.0,
            config=config,
        )
        step = {"magnitudes": sizes, "norms": []}
        for _ in range(2):  # the first step sets up buckets
            with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
                micro_batches(engine, count)
            step["norms"].append(float(engine.step(1e-3)))
            step.setdefault("gradient", gradient(engine, optimizer))
        for kind in (WEIGHT, *MOMENTS):
            assert {piece.dtype for piece in engine.slices(kind)} == {torch.float32}
        found.append(step | {"collectives": collectives(recorded)})
    return found


if __name__ == "__main__":
    main()
