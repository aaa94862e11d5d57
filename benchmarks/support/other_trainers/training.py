"""Other trainers of VAEs on wireframes, each written as its own documentation recommends.

A peer is a function from a `Task` to a `Peer`. All train on the same PNGs, decoded by Pillow and
augmented by torchvision in a DataLoader's worker processes. Each function imports its library
itself, so that an ImportError means that a peer is not installed.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from benchmarks.support.other_trainers.augmentation import torchvision_page
from benchmarks.support.other_trainers.peer import Peer, Task
from benchmarks.support.plain_loop import MaskingDisabled
from vaetrain.model.vae import VAE, Noise, VAEOutput

EMA_DECAY = 0.5 ** (16 / 2000)  # half-life of 2,000 images, as in this project's trainer

# As near to this project's FLOPs as the groups of its norms allow; see the ratio in peers.json.
KL_CHANNELS, KL_GROUPS, KL_LATENT = (4, 12, 16, 32), 4, 4


class PngPages(Dataset):
    """Pages by number: corrupted and clean, float32 (1, H, W), and their heights."""

    def __init__(self, task: Task, *, on_canvas: bool) -> None:
        """Read a task's files; `on_canvas` pads every page with zeros to the canvas height."""
        self.files = task.pages.files
        self.augment = torchvision_page()
        self.rows = task.rows if on_canvas else 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, int]:
        from PIL import Image

        with Image.open(self.files[number]) as picture:
            page = torch.from_numpy(np.array(picture.convert("L")))[None].float() / 255
        corrupted, clean = self.augment(page)
        return self._padded(corrupted), self._padded(clean), page.shape[1]

    def _padded(self, page: Tensor) -> Tensor:
        return F.pad(page, (0, 0, 0, max(0, self.rows - page.shape[1])))


class LikeHeights:
    """Batches of pages of neighbouring heights, in a new random order every epoch."""

    def __init__(self, heights: np.ndarray, batch_size: int, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.heights, self.batch_size = heights, batch_size

    def __len__(self) -> int:
        return len(self.heights) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        pages = self.generator.permutation(len(self.heights))[: len(self) * self.batch_size]
        by_height = pages[np.argsort(self.heights[pages], kind="stable")]
        yield from self.generator.permutation(by_height.reshape(-1, self.batch_size)).tolist()


def loss_of(page: Tensor, targets: Tensor, mu: Tensor, logvar: Tensor, task: Task) -> Tensor:
    """Compute the default experiment's loss with common libraries: L1, SSIM and KL, a scalar."""
    from pytorch_msssim import ssim

    weights = task.experiment.loss
    kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).flatten(1).sum(1).mean()
    similarity = ssim(page, targets, data_range=1.0)
    reconstruction = weights.recon * F.l1_loss(page, targets) + weights.ssim * (1 - similarity)
    return reconstruction + task.experiment.beta.max * kl / targets[0].numel()


def forward_pass(model: VAE, images: Tensor, heights: Tensor) -> VAEOutput:
    eps = torch.randn(len(images), model.latent_dim, device=images.device)
    return model(images, heights, Noise(eps, (), torch.ones(len(images), device=images.device)))


def _plain_script(task: Task, loader: Iterable, *, our_layers: bool = False) -> Peer:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    masks = contextlib.nullcontext() if our_layers else MaskingDisabled()
    model = task.model() if our_layers else task.textbook_model()
    options = task.experiment.optimizer
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True
    )
    rows: Counter[int] = Counter()

    def forward(images: Tensor, heights: Tensor) -> VAEOutput:
        with masks:
            return forward_pass(model, images, heights)

    def epoch() -> int:
        images = 0
        for batch in loader:
            inputs, targets, heights = (part.to(task.device, non_blocking=True) for part in batch)
            output = forward(inputs, heights)
            loss = loss_of(output.reconstruction, targets, output.mu, output.logvar, task)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
            optimizer.step()
            average.update_parameters(model)
            images += len(inputs)
            rows[inputs.shape[2]] += len(inputs)
        return images

    return Peer(epoch, lambda *pages: forward(*pages).reconstruction, rows)


def _loader(task: Task, **options: Any) -> DataLoader:
    return DataLoader(
        num_workers=task.workers,
        persistent_workers=task.workers > 0,
        pin_memory=task.device.type == "cuda",
        **options,
    )


def plain_canvas(task: Task) -> Peer:
    """Build a plain PyTorch script, with every page padded to the same canvas for a DataLoader."""
    dataset = PngPages(task, on_canvas=True)
    size = task.pages.batch_size
    return _plain_script(
        task, _loader(task, dataset=dataset, batch_size=size, shuffle=True, drop_last=True)
    )


def plain_sorted(task: Task, *, our_layers: bool = False) -> Peer:
    """Build the same script with batches of like height, padded as this project pads them."""

    def collate(samples: Sequence[tuple[Tensor, Tensor, int]]) -> list[Tensor]:
        inputs, targets, heights = zip(*samples, strict=True)
        rows = int(task.pages.ladder[np.searchsorted(task.pages.ladder, max(heights))])
        pairs = zip(inputs, targets, heights, strict=True)
        return default_collate(
            [(F.pad(i, (0, 0, 0, rows - h)), F.pad(t, (0, 0, 0, rows - h)), h) for i, t, h in pairs]
        )

    batches = LikeHeights(task.heights, task.pages.batch_size, task.seed)
    dataset = PngPages(task, on_canvas=False)
    loader = _loader(task, dataset=dataset, batch_sampler=batches, collate_fn=collate)
    return _plain_script(task, loader, our_layers=our_layers)


def plain_sorted_ours(task: Task) -> Peer:
    """Build the script of like heights with this project's layers.

    The remaining differences are losses, reading and memory.
    """
    return plain_sorted(task, our_layers=True)


def pythae_trainer(task: Task) -> Peer:
    """Build pythae's `BaseTrainer` on this project's encoder and decoder, with pythae's loss."""
    from pythae import models
    from pythae.data.datasets import DatasetOutput
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    size = (task.rows, task.experiment.data.width)

    def full_heights(batch: Tensor) -> Tensor:
        return torch.full((len(batch),), size[0], device=batch.device)

    class Encode(BaseEncoder):
        def __init__(self, vae: VAE) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, images: Tensor) -> ModelOutput:
            with MaskingDisabled():
                mu, logvar = self.vae.encode(images, full_heights(images))
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decode(BaseDecoder):
        def __init__(self, vae: VAE) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, z: Tensor) -> ModelOutput:
            with MaskingDisabled():
                return ModelOutput(reconstruction=self.vae.decode(z, full_heights(z), size))

    class PythaePages(PngPages):
        def __getitem__(self, number: int) -> DatasetOutput:
            return DatasetOutput(data=super().__getitem__(number)[0])

    vae = task.textbook_model()
    config = models.VAEConfig(input_dim=(1, *size), latent_dim=vae.latent_dim)
    model = models.VAE(config, encoder=Encode(vae), decoder=Decode(vae))
    dataset = PythaePages(task, on_canvas=True)
    settings = BaseTrainerConfig(
        output_dir=str(task.folder),
        per_device_train_batch_size=task.pages.batch_size,
        train_dataloader_num_workers=task.workers,
        learning_rate=task.experiment.optimizer.lr,
        no_cuda=task.device.type == "cpu",
        seed=task.seed,
    )
    logging.disable(logging.INFO)  # pythae logs its settings and every epoch's loss
    trainer = BaseTrainer(model, dataset, training_config=settings)
    trainer.prepare_training()
    logging.disable(logging.NOTSET)
    rows: Counter[int] = Counter()

    def epoch() -> int:
        with contextlib.redirect_stderr(io.StringIO()):  # pythae's progress bar
            trainer.train_step(epoch=1)
        rows[size[0]] += len(dataset)
        return len(dataset)

    def forward(images: Tensor, heights: Tensor) -> Tensor:
        return model({"data": images}).recon_x

    return Peer(epoch, forward, rows)


def diffusers_accelerate(task: Task) -> Peer:
    """Build a plain Accelerate loop of diffusers' `AutoencoderKL`, of about the same FLOPs."""
    from accelerate import Accelerator
    from diffusers import AutoencoderKL

    torch.manual_seed(task.seed)
    levels = len(KL_CHANNELS)
    model = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=KL_CHANNELS,
        latent_channels=KL_LATENT,
        norm_num_groups=KL_GROUPS,
        mid_block_add_attention=False,
    )
    options = task.experiment.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True
    )
    dataset = PngPages(task, on_canvas=True)
    size = task.pages.batch_size
    loader = _loader(task, dataset=dataset, batch_size=size, shuffle=True, drop_last=True)
    accelerator = Accelerator(cpu=task.device.type == "cpu")
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    rows: Counter[int] = Counter()

    def epoch() -> int:
        images = 0
        for inputs, targets, _ in loader:
            posterior = model.encode(inputs).latent_dist
            page = model.decode(posterior.sample()).sample
            loss = loss_of(page, targets, posterior.mean, posterior.logvar, task)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), options.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            images += len(inputs)
            rows[inputs.shape[2]] += len(inputs)
        return images

    return Peer(epoch, lambda images, heights: model(images).sample, rows)


PEERS = {
    "plain script, one canvas": plain_canvas,
    "plain script, like heights": plain_sorted,
    "plain script, like heights, our layers": plain_sorted_ours,
    "pythae": pythae_trainer,
    "diffusers AutoencoderKL": diffusers_accelerate,
}
"""Peers by their names in records."""
