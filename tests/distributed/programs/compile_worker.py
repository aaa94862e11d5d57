"""Training steps with and without compiled blocks; run by `test_compile.py` on any engine.

    accelerate launch ... tests/distributed/programs/compile_worker.py [CASE ...]

A case is settings, separated by commas. For each case the main process prints, as JSON, the losses
of each step without and with `train.compile`, the largest difference of the weights after them,
how many graphs were made up to each height, and where they broke.
"""

from __future__ import annotations

import json
import os
import sys

import torch
from torch._dynamo.utils import counters

from shards.reading.batch import Batch
from tests.support.models import perturbed_model
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.experiment import load_experiment
from vaetrain.engines.base import Engine
from vaetrain.engines.model_options import apply_options
from vaetrain.engines.optimizers import build_optimizer
from vaetrain.engines.spec import running_launch
from vaetrain.engines.start import start_engine
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.training.step import ForwardStep

WIDTH, PAGES = 48, 4
HEIGHTS = (80, 128, 96, 32)  # rows of the batches, one step each
SETTINGS = ("model.latent_dim=8", "augment.policy=none", "optimizer.lr=1e-4")


def micro_batch(rows: int, ids: torch.Tensor) -> Batch:
    """Return these pages of a global batch with pages of up to `rows` rows."""
    generator = torch.Generator().manual_seed(rows)
    pixels = torch.randint(256, (PAGES, 1, rows, WIDTH), generator=generator, dtype=torch.uint8)
    heights = torch.tensor([rows, rows - 9, rows // 2, rows])
    pixels *= (torch.arange(rows) < heights[:, None])[:, None, :, None]
    heights, zeros = heights[ids], torch.zeros_like(ids)
    canvas = torch.stack([torch.full_like(heights, WIDTH), heights], 1).float()
    return Batch(ids, zeros, heights, (rows, WIDTH), tops=zeros, canvas=canvas, pixels=pixels[ids])


def train(
    engine: Engine, settings: list[str], *, compile: bool
) -> tuple[list[float], list[int], torch.Tensor]:
    """Take a step at each height.

    Returns: the losses over all ranks, the number of graphs after each step, the final weights.
    """
    experiment = load_experiment(None, [*SETTINGS, *settings])
    train = experiment.train
    # In a new model, layers that are 0 would hide the blocks.
    model = perturbed_model(experiment.model, WIDTH, max(HEIGHTS), 0.02)
    apply_options(
        model,
        engine.device,
        precision=train.precision or "no",
        shards_weights=engine.spec.stage == 3,
        channels_last=train.channels_last,
        checkpoint_activations=train.checkpoint_activations,
        compile=compile,
        compile_backend="aot_eager",
    )
    micro = PAGES // engine.world_size
    engine.prepare(
        model,
        build_optimizer(model, experiment.optimizer),
        micro_batch=micro,
        accumulation=1,
        clip_norm=1.0,
    )
    forward = ForwardStep(
        experiment,
        model=engine.model,
        vae=engine.module,
        augment=Augment(load_policy(experiment.augment)),
        objective=Objective(experiment),
        device=engine.device,
    )
    weights, found, graphs = Weights({"recon": 1.0, "ssim": 0.1}, beta=1.0), [], []
    for rows in HEIGHTS:
        batch = micro_batch(rows, torch.arange(micro) + engine.rank * micro)
        with engine.micro_batch(last=True):
            losses, _ = forward(batch, weights, 0.7)
            engine.backward(losses, PAGES)
        engine.step(experiment.optimizer.lr)
        found.append(float(engine.sum(losses.detach().sum())))
        graphs.append(counters["stats"]["unique_graphs"])
    return found, graphs, torch.cat([tensor.flatten().clone() for _, tensor in engine.weights()])


def main() -> None:
    """Train twice in each case, print what was found and exit."""
    engine = start_engine(running_launch(os.environ), "no")
    for case in sys.argv[1:]:
        settings = case.split(",")
        torch._dynamo.reset()
        counters.clear()
        eager, _, eager_weights = train(engine, settings, compile=False)
        compiled, graphs, weights = train(engine, settings, compile=True)
        found = {
            "case": case,
            "eager": eager,
            "compiled": compiled,
            "weights": float((weights - eager_weights).abs().max()),
            "graphs": graphs,
            "breaks": dict(counters["graph_break"]),
        }
        engine.log("found " + json.dumps(found))
    engine.shut_down(0)


if __name__ == "__main__":
    main()
