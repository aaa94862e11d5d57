"""The gradient noise scale of a model, estimated from gradients of micro batches.

McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", appendix A: the squared norms
of gradients at two batch sizes give the squared norm of the true gradient and the variance of a
page's gradient. Their ratio is the critical batch size. A batch of that size takes twice the
minimum number of images and twice the minimum number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from benchmarks.support.batch_size.advice import count
from benchmarks.support.batch_size.trainer_step import PageLosses
from shards import cli
from shards.reading.sample_order import SampleOrder
from vaetrain.artifacts.checkpoint import Checkpoint
from vaetrain.config.experiment import Experiment
from vaetrain.data.loading import TrainingData
from vaetrain.engines.base import Engine
from vaetrain.training.pca_start import start_from_pca

CONFIDENCE = 0.95
GROUPS, MICRO_BATCH, PAGES = 16, 4, 512


@dataclass(frozen=True)
class NoiseScale:
    """The critical batch size B = tr(Sigma) / |G|^2, in pages, and its 95% interval.

    Attributes:
        pages, low, high: B and its interval; infinite if the gradient is within its noise.
        gradient: |G|^2, the squared norm of the mean gradient.
        noise: tr(Sigma), the summed variances of a single page's gradient.
    """

    pages: float
    low: float
    high: float
    gradient: float
    noise: float

    def __str__(self) -> str:
        if math.isinf(self.pages):
            return (
                f"more than {count(self.low)} pages, "
                "because the gradient is not distinguishable from its noise; use more --pages"
            )
        high = "no upper bound" if math.isinf(self.high) else count(self.high)
        return f"{count(self.pages)} pages (95%: {count(self.low)} - {high})"

    def as_json(self) -> dict[str, float | None]:
        """Return the attributes; infinity becomes None, because JSON has no infinity."""
        return {
            name: value if math.isfinite(value) else None for name, value in asdict(self).items()
        }


def unbiased(small: float, big: float, pages_small: int, pages_big: int) -> tuple[float, float]:
    """Estimate |G|^2 and tr(Sigma) from mean squared gradient norms at two batch sizes.

    McCandlish et al. 2018, eq. A.2 and A.3: a batch of n pages has E|g|^2 = |G|^2 + tr(Sigma) / n.

    Args:
        small, big: squared gradient norms of batches of `pages_small` and `pages_big` pages.
    """
    gradient = (pages_big * big - pages_small * small) / (pages_big - pages_small)
    noise = (small - big) / (1 / pages_small - 1 / pages_big)
    return gradient, noise


class GradientNorms:
    """Gradient statistics by group of micro batches, for a jackknife over groups.

    The mean gradient of every group stays in host memory: `estimate` needs their dot products.
    """

    def __init__(self, micro_batch: int, per_group: int) -> None:
        """Set the group size: `per_group` micro batches of `micro_batch` pages each."""
        self.micro_batch, self.per_group = micro_batch, per_group
        self._small: list[float] = []
        self._means: list[Tensor] = []
        self._products: list[list[float]] = []

    def add(self, small: float, mean: Tensor) -> None:
        """Add a group.

        Args:
            small: mean squared norm of the gradients of its micro batches.
            mean: mean of these gradients, (P,).
        """
        mean = mean.detach().cpu()
        self._small.append(small)
        self._means.append(mean)
        self._products.append([_dot(mean, other) for other in self._means])

    def estimate(self) -> NoiseScale:
        """Compute the noise scale of all groups; there must be at least two.

        The interval is that of the jackknife over groups (Efron and Tibshirani 1993, chapter 11)
        with Student's quantiles. It is computed for |G|^2 / tr(Sigma) and then inverted. If it
        contains 0, the noise scale has no upper bound.
        """
        count = len(self._small)
        products = np.zeros((count, count))
        for row, values in enumerate(self._products):
            products[row, : row + 1] = products[: row + 1, row] = values
        small = np.array(self._small)

        def of_groups(kept: np.ndarray) -> tuple[float, float]:
            pages = int(kept.sum()) * self.per_group * self.micro_batch
            big = products[np.ix_(kept, kept)].mean()
            return unbiased(small[kept].mean(), big, self.micro_batch, pages)

        gradient, noise = of_groups(np.ones(count, dtype=bool))
        without_one = [of_groups(np.arange(count) != omitted) for omitted in range(count)]
        ratios = np.array([one_gradient / one_noise for one_gradient, one_noise in without_one])
        error = math.sqrt((count - 1) * ratios.var())
        half_width = student.ppf(0.5 + CONFIDENCE / 2, count - 1) * error
        ratio = gradient / noise
        low, high = _inverse(ratio + half_width), _inverse(ratio - half_width)
        return NoiseScale(_inverse(ratio), low, high, gradient, noise)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.double(), b.double()))


def _inverse(ratio: float) -> float:
    return 1 / ratio if ratio > 0 else math.inf


def collect(gradients: Iterable[Tensor], norms: GradientNorms, engine: Engine) -> None:
    """Combine the micro batch gradients of all ranks into groups. Collective.

    Args:
        gradients: this rank's gradients, each (P,) on the engine's device. The number over all
            ranks is a multiple of the group size.
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
    """Measure the noise scale of a model at fixed weights. Collective.

    Args:
        seed: seed of the page order. Augmentation and noise use the seed of the experiment.
        pages: number of pages over all ranks, limited by the size of the training set, because
            each page is used once. Only a training set too small for two groups repeats pages.
    """
    world = engine.world_size
    available = min(pages, len(data.train)) // (micro_batch * world)
    groups = max(2, min(GROUPS, available // max(1, 2 // world)))
    per_rank = max(available // groups, 2 // world, 1)
    norms = GradientNorms(micro_batch, per_rank * world)
    order = SampleOrder(
        data.train,
        seed=seed,
        # One micro batch per step: in a larger step, micro batches would be sorted by height.
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
        gradients = torch.autograd.grad(
            losses(batch).mean(), parameters, allow_unused=True, materialize_grads=True
        )
        yield torch.cat([gradient.flatten() for gradient in gradients])


def losses_at(
    experiment: Experiment, saved: Checkpoint | None, data: TrainingData, engine: Engine
) -> PageLosses:
    """Return the model and its losses at a checkpoint, or at the start of training. Collective."""
    epoch = 0.0 if saved is None else saved.images / len(data.train)
    losses = PageLosses(experiment, engine.device, epoch)
    if saved is not None:
        losses.model.load_state_dict(saved.weights)
    elif losses.model.starts_from_pca:
        start_from_pca(losses.model, data, engine)
    return losses
