"""Optimizer steps of the trainer in one process, on batches that are on the device already.

The forward path is the trainer's own `ForwardStep`. Readers, logs and distributed engines are not
used, so that steps also run on fake tensors, which predict memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.support.memory import Work
from shards.errors import UserError
from shards.reading.batch import Batch
from vaetrain.artifacts.final_model import load_encoder
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.experiment import Experiment
from vaetrain.data.loading import PageReader
from vaetrain.engines.model_options import apply_options
from vaetrain.engines.optimizers import build_optimizer, clip_gradients, start_state, step_where
from vaetrain.losses.objective import Objective
from vaetrain.model.vae import VAE
from vaetrain.schedules import skip_gate_at, weights_at
from vaetrain.training.auto import resolve_auto
from vaetrain.training.step import ForwardStep

BOXES_OF_A_PAGE = 116  # the median of real pages


class PageLosses:
    """Model and the trainer's forward path: a function from a batch to the losses of its pages.

    Attributes:
        model: on the device; its initial weights are drawn with the experiment's seed.
    """

    def __init__(
        self, experiment: Experiment, device: torch.device, epoch: float | None = None
    ) -> None:
        """Build the parts.

        Args:
            epoch: point of the schedules of loss weights and skip gate; None: the end of training.

        Raises UserError for a VAE-GAN, because the discriminator is not built here.
        """
        if experiment.gan.enabled:
            raise UserError("gan.enabled: not supported here; set gan.enabled=false")
        train, _ = resolve_auto(experiment.train, device)
        epoch = train.epochs if epoch is None else epoch
        self.weights = weights_at(experiment, epoch, train.epochs)
        self.skip_gate = skip_gate_at(experiment.skips, experiment.model.skips, epoch)
        torch.manual_seed(train.seed)
        with device:  # fake parameters do not support `.to(device)`
            self.model = VAE(experiment.model, experiment.data.width, experiment.data.max_height)
            objective = Objective(experiment, load_encoder)
        apply_options(
            self.model,
            device,
            precision=train.precision or "no",
            channels_last=train.channels_last,
            checkpoint_activations=train.checkpoint_activations,
            compile=train.compile,
        )
        self.forward = ForwardStep(
            experiment,
            model=self.model,
            vae=self.model,
            augment=Augment(load_policy(experiment.augment, experiment.data.folder)),
            objective=objective,
            device=device,
        )

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of each page of a batch on the device: (B,)."""
        losses, _ = self.forward(batch, self.weights, self.skip_gate)
        return losses


class TrainerStep:
    """Optimizer step: gradients of micro batches, clipping, optimizer and EMA."""

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        self.losses = PageLosses(experiment, device)
        self.config = experiment.optimizer
        self.parameters = list(self.losses.model.parameters())
        self.optimizer = build_optimizer(self.losses.model, self.config)
        start_state(self.optimizer, self.parameters)
        self.ema = [parameter.detach().clone() for parameter in self.parameters]

    def __call__(self, micro_batches: Sequence[Batch]) -> int:
        """Do one optimizer step on the micro batches; return the number of pages."""
        pages = sum(map(len, micro_batches))
        for batch in micro_batches:
            (self.losses(batch).sum() / pages).backward()
        self.update()
        return pages

    @torch.no_grad()
    def update(self) -> None:
        """Update the weights and their EMA from the gradients."""
        norm = clip_gradients(self.parameters, self.config.clip_norm)
        step_where(norm.isfinite(), self.optimizer)
        self.optimizer.zero_grad()
        torch._foreach_lerp_(self.ema, self.parameters, 0.01)


def made_up_batch(pages: int, size: tuple[int, int], device: torch.device) -> Batch:
    """Return a batch of pages of random boxes with canvas (H, W), on the (possibly fake) device."""
    rows, width = size
    with device:
        ids = torch.arange(pages)
        corners = torch.rand(pages * BOXES_OF_A_PAGE, 2, 2).sort(dim=1).values
        canvas = torch.ones(pages, 2) * torch.tensor([float(width), float(rows)], device=device)
        owner = ids.repeat_interleave(BOXES_OF_A_PAGE, output_size=len(corners))
        return Batch(
            ids=ids,
            epochs=torch.zeros_like(ids),
            heights=torch.full_like(ids, rows),
            size=size,
            tops=torch.zeros_like(ids),
            canvas=canvas,
            boxes=(corners * canvas[0]).flatten(1),
            owner=owner,
        )


def work_of_a_step(experiment: Experiment, pages: int, size: tuple[int, int]) -> Work:
    """Return a function that builds a training and takes a step of two micro batches.

    Gradients exist from the second one on. A step of one micro batch needs less memory, by at most
    their size.
    """

    def run(device: torch.device) -> None:
        step = TrainerStep(experiment, device)
        step([made_up_batch(pages, size, device) for _ in range(2)])

    return run


def pages_of_one_height(data: PageReader, count: int) -> tuple[np.ndarray, int]:
    """Return ids, int64 (count,), of training pages with the same padded height, and the height.

    With one height, padding does not depend on the division into micro batches. The most frequent
    padded height is used. If there are fewer than `count` such pages, they are repeated.
    """
    selection = data.select("train")
    places = np.arange(len(selection))
    padded = np.searchsorted(data.ladder, selection.heights_at(places))
    rung = np.bincount(padded).argmax()
    ids = selection.ids_at(places[padded == rung])
    return np.resize(ids, count), int(data.ladder[rung])


def cut(data: PageReader, ids: np.ndarray, micro: int, device: torch.device) -> list[Batch]:
    """Return these training pages as micro batches on the device."""
    parts = np.split(ids, range(micro, len(ids), micro))
    return [
        data.collator.batch(part, np.zeros_like(part), training=True).to(device) for part in parts
    ]
