"""The gradient noise scale: the global batch beyond which more pages a step save few steps.

    python -m benchmarks.noise_scale --run runs/default
    accelerate launch --config_file accelerate_configs/ddp.yaml benchmarks/noise_scale.py \\
        --run runs/default

Compares the gradients of single micro batches, of all ranks, with their mean, at fixed weights
(McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", appendix A). The critical
batch size B is the variance of one page's gradient over the squared norm of the mean gradient. A
batch of B pages takes twice the minimum number of images and twice the minimum number of steps. The
pages of a batch are drawn from all training pages: pages of like height, as in a training batch,
have gradients like one another.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__" and __package__ is None:  # the launcher runs the file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.support.batch_size.gradient_noise import MICRO_BATCH, PAGES, losses_at, measure
from shards import cli, errors
from shards.atomic_files import write_atomic
from vaetrain.artifacts.final_model import newest_checkpoint
from vaetrain.cli import output_file, whole
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import experiment_from, load_experiment
from vaetrain.data.config import SAMPLE_SHARDS
from vaetrain.data.loading import TrainingData, build_sample
from vaetrain.engines.devices import thread_line
from vaetrain.engines.spec import running_launch
from vaetrain.engines.start import start_engine
from vaetrain.model.vae import VAE


def main() -> NoReturn:
    """Run the command, and end the process as the engine does."""
    arguments = _parser().parse_intermixed_args()
    engine = start_engine(running_launch(os.environ), "no")
    engine.log(thread_line(torch.get_num_threads()))
    saved = None
    if arguments.run is not None:
        saved = newest_checkpoint(arguments.run / "checkpoints", engine.log)
        if saved is None:
            raise errors.UserError(f"{arguments.run}: has no checkpoint; train it first")
        experiment = experiment_from(saved.state["experiment"], str(arguments.run))
    else:
        path = experiment_path(arguments.experiment)
        experiment = load_experiment(path, arguments.settings)
    if experiment.data.folder == SAMPLE_SHARDS:
        engine.on_main(build_sample)
    data = TrainingData(
        experiment.data,
        engine,
        VAE.stride,
        seed=experiment.train.seed,
        global_batch_size=experiment.train.global_batch_size,
    )
    scale = measure(
        losses_at(experiment, saved, data, engine),
        data,
        engine,
        seed=arguments.seed,
        pages=arguments.pages,
        micro_batch=arguments.micro_batch,
    )
    engine.log(f"critical batch: {scale}")
    if engine.is_main and arguments.json is not None:
        write_atomic(arguments.json, json.dumps(scale.as_json(), indent=1) + "\n")
    engine.shut_down(0)


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="benchmarks.noise_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", type=Path, help="run directory; its newest checkpoint is measured")
    add("--experiment", help="without --run: YAML file or name, measured at the start of training")
    add("--pages", type=whole(16, 10**9), default=PAGES, help=f"pages to use; default {PAGES}")
    add("--micro-batch", type=whole(1, 10**6), default=MICRO_BATCH, help=f"default {MICRO_BATCH}")
    add("--seed", type=whole(0, 2**63 - 1), default=0, help="of the order of pages; default 0")
    add("--json", type=output_file, metavar="FILE", help="also write the result to a JSON file")
    add("settings", nargs="*", metavar="key=value", help="with --experiment: override any setting")
    return parser


if __name__ == "__main__":
    cli.run("benchmarks.noise_scale", main)
