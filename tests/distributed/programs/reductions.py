"""Collectives of a step's micro batches by an engine without the trainer, counted; prints JSON.

    accelerate launch --config_file ENGINE reductions.py REDUCE_EACH_MICRO_BATCH

The profiler counts the collectives of gloo in the forward and backward passes of steps of one, two
and four micro batches with the same pages. Also printed: the gradient norm of each of these steps.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from vaetrain.engines.base import Engine
from vaetrain.engines.config import EngineConfig, OptimizerConfig
from vaetrain.engines.optimizers import build_optimizer
from vaetrain.engines.spec import running_launch
from vaetrain.engines.start import start_engine
from vaetrain.settings import AUTO

PAGES, WIDTH = 8, 8
TYPES = {"float": "fp32", "c10::BFloat16": "bf16"}
EACH = {"true": True, "false": False, AUTO: AUTO}


def micro_batches(engine: Engine, count: int) -> None:
    """Run the forward and backward passes of a step."""
    generator = torch.Generator().manual_seed(engine.rank)
    for number, pages in enumerate(torch.randn(PAGES, WIDTH, generator=generator).chunk(count)):
        with engine.micro_batch(last=number == count - 1):
            losses = engine.model(pages).square().mean(1)
            engine.backward(losses, PAGES * engine.world_size)


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
    config = EngineConfig(reduce_each_micro_batch=EACH[sys.argv[1]])
    engine = start_engine(running_launch(os.environ), "no")
    found = {}
    for count in (1, 2, 4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, 2, bias=False))
        engine.prepare(
            model,
            build_optimizer(model, OptimizerConfig()),
            micro_batch=PAGES // count,
            accumulation=count,
            clip_norm=0.0,
            config=config,
        )
        norms = []
        for _ in range(2):  # the first step sets up buckets
            with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
                micro_batches(engine, count)
            norms.append(float(engine.step(1e-3)))
        found[count] = {"norms": norms, "collectives": collectives(recorded)}
    engine.log("found " + json.dumps(found))
    engine.shut_down(0)


if __name__ == "__main__":
    main()
