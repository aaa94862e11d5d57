"""The trainer's step without the trainer: on batches that are on the device, in one process.

A step computes what `vaetrain.training.trainer.Trainer` computes, by the same functions. Reading,
logging and distributed engines are left out, so it also runs on fake tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shards.errors import UserError
from shards.randomness import sample_keys
from shards.reading.batch import Batch
from vaetrain.artifacts.final_model import load_encoder
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.experiment import Experiment
from vaetrain.data.loading import PageReader
from vaetrain.engines.model_options import apply_options
from vaetrain.engines.optimizers import build_optimizer, clip_gradients, start_state, step_where
from vaetrain.losses.objective import Objective
from vaetrain.model.mixup import Mixup
from vaetrain.model.vae import VAE, draw_noise
from vaetrain.schedules import skip_gate_at, weights_at

BOXES_OF_A_PAGE = 116  # the median of real pages


class PageLosses:
    """The model and all that stands between a batch of boxes and the losses of its pages.

    Attributes:
        model: a new one, from the experiment's seed, on the device.
    """

    def __init__(
        self, experiment: Experiment, device: torch.device, epoch: float | None = None
    ) -> None:
        """Build the parts.

        Args:
            epoch: whose loss weights count; None: those of the training's end.

        Raises UserError for a VAE-GAN, whose other half is not here.
        """
        if experiment.gan.enabled:
            raise UserError("gan.enabled: only a VAE by itself is measured here")
        self.experiment, train = experiment, experiment.train
        epoch = train.epochs if epoch is None else epoch
        self.weights = weights_at(experiment, epoch, train.epochs)
        self.gate = skip_gate_at(experiment.skips, epoch)
        torch.manual_seed(train.seed)
        with device:  # rather than `.to(device)`, which fake parameters do not know
            self.model = VAE(experiment.model, experiment.data.width, experiment.data.max_height)
            self.objective = Objective(experiment, load_encoder)
        apply_options(
            self.model,
            device,
            precision=train.precision or "no",
            channels_last=train.channels_last,
            checkpoint_activations=train.checkpoint_activations,
            compile=train.compile,
        )
        self.augment = Augment(load_policy(experiment.augment, experiment.data.folder))
        alpha = experiment.augment.mixup_alpha
        self.mixup = Mixup(alpha, device) if alpha > 0 else None

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of each page of a batch on the device: (B,)."""
        seed = self.experiment.train.seed
        inputs, targets = self.augment(batch, seed)
        keys = sample_keys(seed, batch.epochs, batch.ids, "eps")
        noise = draw_noise(self.model, keys, batch.size, self.gate, self.experiment.skips.dropout)
        shares = None
        if self.mixup is not None:
            shares = self.mixup.shares(seed, batch.epochs, batch.ids)
        output = self.model(inputs, batch.heights, noise, shares)
        shares = None if shares is None else 2 * shares
        losses, _ = self.objective(output, targets, batch.heights, self.weights, shares)
        return losses


class TrainerStep:
    """An optimizer step: gradients of micro batches, clipping, the optimizer, the average."""

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        self.losses = PageLosses(experiment, device)
        self.config = experiment.optimizer
        self.parameters = list(self.losses.model.parameters())
        self.optimizer = build_optimizer(self.losses.model, self.config)
        start_state(self.optimizer, self.parameters)
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    def __call__(self, micro_batches: Sequence[Batch]) -> int:
        """Take one step over all of these; the number of pages."""
        pages = sum(map(len, micro_batches))
        for batch in micro_batches:
            (self.losses(batch).sum() / pages).backward()
        self.update()
        return pages

    @torch.no_grad()
    def update(self) -> None:
        """What a step does with its gradients."""
        norm = clip_gradients(self.parameters, self.config.clip_norm)
        step_where(norm.isfinite(), self.optimizer)
        self.optimizer.zero_grad()
        torch._foreach_lerp_(self.average, self.parameters, 0.01)


def made_up_batch(pages: int, size: tuple[int, int], device: torch.device) -> Batch:
    """Pages of random boxes that fill (H, W), made on the device, fake or not."""
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


def pages_of_one_height(data: PageReader, count: int) -> tuple[np.ndarray, int]:
    """The ids, int64 (count,), of training pages that are all padded to the same rows, and these.

    The height is the most frequent one, so that how a batch is cut changes nothing about its
    padding. Where there are too few pages they come again.
    """
    selection = data.select("train")
    places = np.arange(len(selection))
    padded = np.searchsorted(data.ladder, selection.heights_at(places))
    rung = np.bincount(padded).argmax()
    ids = selection.ids_at(places[padded == rung])
    return np.resize(ids, count), int(data.ladder[rung])


def cut(data: PageReader, ids: np.ndarray, micro: int, device: torch.device) -> list[Batch]:
    """These training pages as micro batches on the device."""
    parts = np.split(ids, range(micro, len(ids), micro))
    return [
        data.collator.batch(part, np.zeros_like(part), training=True).to(device) for part in parts
    ]
