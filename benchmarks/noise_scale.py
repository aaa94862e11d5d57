"""The gradient noise scale: up to which global batch more pages a step still save steps.

    python -m benchmarks.noise_scale --run runs/default
    accelerate launch --config_file accelerate_configs/ddp.yaml benchmarks/noise_scale.py \\
        --run runs/default

Compares the gradients of single micro batches, of all ranks, with their mean, at weights that stand
still (McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", appendix A). Where the
noise of a batch of one page is B times the gradient itself, squared norms taken, a batch of B pages
costs twice the images and twice the steps that are needed at least: B is the critical batch size.
The pages of a batch are drawn from all training pages, not from those of like height, whose
gradients are like one another.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

if __name__ == "__main__" and __package__ is None:  # as ranks run it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from benchmarks.support.batch_size.trainer_step import PageLosses
from shards import cli, errors
from shards.reading.order import SampleOrder
from shards.storage import write_whole
from vaetrain.artifacts.checkpoint import Checkpoint
from vaetrain.artifacts.final_model import newest_checkpoint
from vaetrain.cli import output_file, whole
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import Experiment, experiment_from, load_experiment
from vaetrain.data.config import SAMPLE_SHARDS
from vaetrain.data.loading import TrainingData, build_sample
from vaetrain.engines.base import Engine
from vaetrain.engines.factory import start_engine
from vaetrain.engines.spec import running_launch
from vaetrain.model.vae import VAE
from vaetrain.training.pca_start import start_from_pca

CONFIDENCE = 0.95
GROUPS, MICRO_BATCH, PAGES = 16, 4, 512


@dataclass(frozen=True)
class NoiseScale:
    """The critical batch size B = tr(Sigma) / |G|^2, in pages, and its 95% interval.

    Attributes:
        pages, low, high: B; infinite where the gradient cannot be told from its noise.
        gradient: |G|^2, the squared norm of the mean gradient.
        noise: tr(Sigma), the summed variances of a single page's gradient.
    """

    pages: float
    low: float
    high: float
    gradient: float
    noise: float


def unbiased(small: float, big: float, pages_small: int, pages_big: int) -> tuple[float, float]:
    """|G|^2 and tr(Sigma) from mean squared norms of gradients at two batch sizes.

    McCandlish et al. 2018, eq. A.2 and A.3: a batch of n pages has E|g|^2 = |G|^2 + tr(Sigma) / n.

    Args:
        small, big: squared norms of the gradients of batches of so many pages.
    """
    gradient = (pages_big * big - pages_small * small) / (pages_big - pages_small)
    noise = (small - big) / (1 / pages_small - 1 / pages_big)
    return gradient, noise


class GradientNorms:
    """What is kept of gradients: by groups, so that leaving one out shows how sure the result is.

    The groups' mean gradients stay in the host's memory until the end.
    """

    def __init__(self, micro_batch: int, per_group: int) -> None:
        """Groups are of `per_group` micro batches of `micro_batch` pages each."""
        self.micro_batch, self.per_group = micro_batch, per_group
        self._small: list[float] = []
        self._means: list[Tensor] = []
        self._products: list[list[float]] = []

    def add(self, small: float, mean: Tensor) -> None:
        """Add a group: the mean squared norm of its gradients, and their mean (P,)."""
        mean = mean.detach().cpu()
        self._small.append(small)
        self._means.append(mean)
        self._products.append([_dot(mean, other) for other in self._means])

    def estimate(self) -> NoiseScale:
        """The noise scale of all groups, which must be two at least.

        Its interval is the jackknife's over groups (Efron and Tibshirani 1993, chapter 11) with
        Student's quantiles, of |G|^2 / tr(Sigma): the inverse may have no upper end.
        """
        count = len(self._small)
        products = np.zeros((count, count))
        for row, values in enumerate(self._products):
            products[row, : row + 1] = products[: row + 1, row] = values
        small = np.array(self._small)

        def of(kept: np.ndarray) -> tuple[float, float]:
            pages = int(kept.sum()) * self.per_group * self.micro_batch
            big = products[np.ix_(kept, kept)].mean()
            return unbiased(small[kept].mean(), big, self.micro_batch, pages)

        gradient, noise = of(np.ones(count, dtype=bool))
        without = [of(np.arange(count) != left_out) for left_out in range(count)]
        ratios = np.array([one_gradient / one_noise for one_gradient, one_noise in without])
        error = math.sqrt((count - 1) * ratios.var())
        reach = student.ppf(0.5 + CONFIDENCE / 2, count - 1) * error
        ratio = gradient / noise
        return NoiseScale(
            _inverse(ratio), _inverse(ratio + reach), _inverse(ratio - reach), gradient, noise
        )


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.double(), b.double()))


def _inverse(ratio: float) -> float:
    return 1 / ratio if ratio > 0 else math.inf


def collect(gradients: Iterable[Tensor], norms: GradientNorms, engine: Engine) -> None:
    """Put this rank's gradients, of one micro batch each, together with those of all others.

    Args:
        gradients: (P,) each on the engine's device, as many as make whole groups. Collective.
    """
    per_rank = norms.per_group // engine.world_size
    squares = total = torch.zeros((), device=engine.device)
    for number, gradient in enumerate(gradients, 1):
        squares = squares + gradient.double().square().sum()
        total = total + gradient
        if number % per_rank == 0:
            small = engine.sum(squares) / norms.per_group
            norms.add(float(small), engine.sum(total) / norms.per_group)
            squares = total = torch.zeros((), device=engine.device)


def measure(
    losses: PageLosses,
    data: TrainingData,
    engine: Engine,
    *,
    seed: int,
    pages: int = PAGES,
    micro_batch: int = MICRO_BATCH,
) -> NoiseScale:
    """The noise scale of a model at its weights, from pages in an order of their own. Collective.

    Args:
        seed: of that order; the pages' own randomness is the experiment's.
        pages: to take gradients of, over all ranks; fewer where there are fewer, for none comes
            twice unless there are too few for two groups.
    """
    world = engine.world_size
    available = min(pages, len(data.train)) // (micro_batch * world)
    groups = max(2, min(GROUPS, available // max(1, 2 // world)))
    per_rank = max(available // groups, 2 // world, 1)
    norms = GradientNorms(micro_batch, per_rank * world)
    order = SampleOrder(
        data.train,
        seed=seed,
        # A step of the order is a micro batch: the pages of a larger one would be sorted.
        global_batch_size=micro_batch,
        window_shards=len(data.index.shards),
        ladder=data.ladder[-1:],  # one height for all
    )
    numbers = range(engine.rank, groups * per_rank * world, world)
    collect(_gradients(losses, order, data, numbers, engine), norms, engine)
    return norms.estimate()


def _gradients(
    losses: PageLosses, order: SampleOrder, data: TrainingData, numbers: range, engine: Engine
) -> Iterator[Tensor]:
    parameters = list(losses.model.parameters())
    for number in cli.progress(numbers, desc="gradients", unit="batch"):
        ids, epochs = order.step(number)
        batch = data.collator.batch(ids, epochs, training=True).to(engine.device)
        found = torch.autograd.grad(
            losses(batch).mean(), parameters, allow_unused=True, materialize_grads=True
        )
        yield torch.cat([gradient.flatten() for gradient in found])


def losses_at(
    experiment: Experiment, saved: Checkpoint | None, data: TrainingData, engine: Engine
) -> PageLosses:
    """A model at a checkpoint, or where the experiment's training starts. Collective."""
    epoch = 0.0 if saved is None else saved.images / len(data.train)
    losses = PageLosses(experiment, engine.device, epoch)
    if saved is not None:
        losses.model.load_state_dict(saved.weights)
    elif losses.model.starts_from_pca:
        start_from_pca(losses.model, data, engine)
    return losses


def main() -> int:
    """Run the command; the exit status, unless it has ended the process itself."""
    arguments = _parser().parse_intermixed_args()
    engine = start_engine(running_launch(os.environ), "no")
    saved = None
    if arguments.run is not None:
        saved = newest_checkpoint(arguments.run / "checkpoints", engine.log)
        if saved is None:
            raise errors.UserError(f"{arguments.run}: there is no checkpoint in it")
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
    losses = losses_at(experiment, saved, data, engine)
    found = measure(
        losses,
        data,
        engine,
        seed=arguments.seed,
        pages=arguments.pages,
        micro_batch=arguments.micro_batch,
    )
    engine.log(f"critical batch: {told(found)}")
    if engine.is_main and arguments.json is not None:
        write_whole(arguments.json, json.dumps(as_json(found), indent=1) + "\n")
    engine.shut_down(0)


def told(found: NoiseScale) -> str:
    """The noise scale in words."""
    if math.isinf(found.pages):
        return f"more than {found.low:.0f} pages, the gradient cannot be told from its noise"
    high = "no upper end" if math.isinf(found.high) else f"{found.high:.0f}"
    return f"{found.pages:.0f} pages (95%: {found.low:.0f} - {high})"


def as_json(found: NoiseScale) -> dict[str, float | None]:
    """The noise scale for JSON, which knows no infinity: null stands for it."""
    return {name: value if math.isfinite(value) else None for name, value in asdict(found).items()}


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="benchmarks.noise_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", type=Path, help="run directory, of whose newest checkpoint the weights are")
    add("--experiment", help="without --run: YAML file or name, at the start of its training")
    add("--pages", type=whole(16, 10**9), default=PAGES, help=f"to look at; default {PAGES}")
    add("--micro-batch", type=whole(1, 10**6), default=MICRO_BATCH, help=f"default {MICRO_BATCH}")
    add("--seed", type=whole(0, 2**63 - 1), default=0, help="of the pages' order; default 0")
    add("--json", type=output_file, metavar="FILE", help="write the result there, too")
    add("settings", nargs="*", metavar="key=value", help="with --experiment: any setting")
    return parser


if __name__ == "__main__":
    cli.run("benchmarks.noise_scale", main)
