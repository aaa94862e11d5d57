"""What else trains a VAE on wireframes: each as its own documentation would have a user write it.

A peer is a function of a `Task` that returns a `Peer`. All train on the same PNGs, decoded by
Pillow and augmented by torchvision in a DataLoader's worker processes. Each imports what it needs
itself, so that an ImportError says that a peer isn't installed. And each trains in a process of its
own: what our trainer does to its process, such as `keep_freed_memory`, is none of theirs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.support.other_trainers.augmentation import torchvision_page
from benchmarks.support.other_trainers.input_pipelines import PageFiles
from benchmarks.support.resident import MaskingDisabled, textbook
from shards.lifetime import die_with_parent
from vaetrain.config.experiment import Experiment
from vaetrain.model.vae import VAE, Noise, VAEOutput

EMA_DECAY = 0.5 ** (16 / 2000)  # halves in 2,000 images, as our trainer's average does

# As near to our model's FLOPs as its groups of norms allow; benchmarks.peers tells the ratio.
KL_CHANNELS, KL_GROUPS, KL_LATENT = (4, 12, 16, 32), 4, 4


@dataclass(frozen=True)
class Task:
    """What there is to train.

    pages: PNGs, in batches; `pages.ladder[-1]` is the canvas' height, px.
    heights: int64 (N,), the pages' own rows.
    experiment: the model, its losses' weights and its optimizer.
    workers: processes that read.
    folder: for what a peer writes.
    """

    pages: PageFiles
    heights: np.ndarray
    experiment: Experiment
    device: torch.device
    workers: int
    folder: Path
    seed: int

    @property
    def rows(self) -> int:
        """The canvas' height, px."""
        return int(self.pages.ladder[-1])

    def model(self) -> VAE:
        """Our model, fresh, on the device."""
        torch.manual_seed(self.seed)
        data = self.experiment.data
        return VAE(self.experiment.model, data.width, data.max_height).to(self.device)

    def textbook_model(self) -> VAE:
        """The same in torch's own layers; to be used within `MaskingDisabled`."""
        vae = self.model()
        textbook(vae)
        return vae


@dataclass(frozen=True)
class Peer:
    """A way to train.

    epoch: trains on every page once, but those that fill no batch; returns their number.
    forward: images (B, 1, H, W) and heights (B,) through its model, for counting FLOPs.
    rows: of how many pages so far a batch was padded to each height.
    """

    epoch: Callable[[], int]
    forward: Callable[[Tensor, Tensor], Tensor]
    rows: Counter[int] = field(default_factory=Counter)

    def flops(self, height: int, width: int, device: torch.device) -> int:
        """Of its model's forward and backward pass of one page of this size."""
        images = torch.rand(1, 1, height, width, device=device)
        with FlopCounterMode(display=False) as counter:
            self.forward(images, torch.tensor([height], device=device)).sum().backward()
        return counter.get_total_flops()


class PeerProcess:
    """A peer in a process of its own, for the time of a context: `peer_process`."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        """Take the process in which `_start` has put a peer."""
        self.rows: Counter[int] = Counter()
        self._pool = pool

    def epoch(self) -> int:
        """As of `Peer`."""
        images, self.rows = self._pool.submit(_epoch).result()
        return images

    def flops(self, height: int, width: int, device: torch.device) -> int:
        """As of `Peer`."""
        return self._pool.submit(_flops, height, width, device).result()


@contextlib.contextmanager
def peer_process(name: str, task: Task) -> Iterator[PeerProcess]:
    """One of `PEERS` in a process with as many threads as this one.

    Raises ImportError where it isn't installed.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(_start, name, task, torch.get_num_threads()).result()
        yield PeerProcess(pool)


_here: list[Peer] = []  # in a process of `peer_process`: its peer


def _start(name: str, task: Task, threads: int) -> None:
    die_with_parent(signal.SIGKILL)
    set_start_method("fork", force=True)  # of a DataLoader's processes, as in a script
    torch.set_num_threads(threads)
    _here.append(PEERS[name](task))


def _epoch() -> tuple[int, Counter[int]]:
    return _here[0].epoch(), _here[0].rows


def _flops(*size: Any) -> int:
    return _here[0].flops(*size)


class PngPages(Dataset):
    """Pages by number: spoiled and clean, float32 (1, H, W), and their rows."""

    def __init__(self, task: Task, *, on_canvas: bool) -> None:
        """Read a task's files; `on_canvas`: below each page so many zeros that all are alike."""
        self.files = task.pages.files
        self.augment = torchvision_page()
        self.rows = task.rows if on_canvas else 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, int]:
        from PIL import Image

        with Image.open(self.files[number]) as picture:
            page = torch.from_numpy(np.array(picture.convert("L")))[None].float() / 255
        spoiled, clean = self.augment(page)
        return self._padded(spoiled), self._padded(clean), page.shape[1]

    def _padded(self, page: Tensor) -> Tensor:
        return F.pad(page, (0, 0, 0, max(0, self.rows - page.shape[1])))


class LikeHeights:
    """Batches of pages of neighbouring heights, in an order drawn anew for every epoch."""

    def __init__(self, heights: np.ndarray, batch_size: int, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.heights, self.batch_size = heights, batch_size

    def __len__(self) -> int:
        return len(self.heights) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        pages = self.draw.permutation(len(self.heights))[: len(self) * self.batch_size]
        alike = pages[np.argsort(self.heights[pages], kind="stable")]
        yield from self.draw.permutation(alike.reshape(-1, self.batch_size)).tolist()


def loss_of(page: Tensor, targets: Tensor, mu: Tensor, logvar: Tensor, task: Task) -> Tensor:
    """The default experiment's losses by the libraries at hand: L1, SSIM and KL, a scalar."""
    from pytorch_msssim import ssim

    weights = task.experiment.loss
    nats = -0.5 * (1 + logvar - mu.square() - logvar.exp()).flatten(1).sum(1).mean()
    likeness = ssim(page, targets, data_range=1.0)
    picture = weights.recon * F.l1_loss(page, targets) + weights.ssim * (1 - likeness)
    return picture + task.experiment.beta.max * nats / targets[0].numel()


def _through(model: VAE, images: Tensor, heights: Tensor) -> VAEOutput:
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

    def through(images: Tensor, heights: Tensor) -> VAEOutput:
        with masks:
            return _through(model, images, heights)

    def epoch() -> int:
        images = 0
        for batch in loader:
            inputs, targets, heights = (part.to(task.device, non_blocking=True) for part in batch)
            output = through(inputs, heights)
            loss = loss_of(output.reconstruction, targets, output.mu, output.logvar, task)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
            optimizer.step()
            average.update_parameters(model)
            images += len(inputs)
            rows[inputs.shape[2]] += len(inputs)
        return images

    return Peer(epoch, lambda *pages: through(*pages).reconstruction, rows)


def _loader(task: Task, **options: Any) -> DataLoader:
    return DataLoader(
        num_workers=task.workers,
        persistent_workers=task.workers > 0,
        pin_memory=task.device.type == "cuda",
        **options,
    )


def plain_canvas(task: Task) -> Peer:
    """A plain PyTorch script: every page on a canvas of the tallest, as a DataLoader needs it."""
    dataset = PngPages(task, on_canvas=True)
    size = task.pages.batch_size
    return _plain_script(
        task, _loader(task, dataset=dataset, batch_size=size, shuffle=True, drop_last=True)
    )


def plain_sorted(task: Task, *, our_layers: bool = False) -> Peer:
    """The same script by a user who has noticed: batches of like height, padded as ours are."""

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
    """That, of our model with its own layers: what is left are losses, reading and memory."""
    return plain_sorted(task, our_layers=True)


def pythae_trainer(task: Task) -> Peer:
    """pythae's `BaseTrainer` on our model's encoder and decoder, with pythae's own loss."""
    from pythae import models
    from pythae.data.datasets import DatasetOutput
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    size = (task.rows, task.experiment.data.width)

    def whole(batch: Tensor) -> Tensor:
        return torch.full((len(batch),), size[0], device=batch.device)

    class Encode(BaseEncoder):
        def __init__(self, vae: VAE) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, images: Tensor) -> ModelOutput:
            with MaskingDisabled():
                mu, logvar = self.vae.encode(images, whole(images))
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decode(BaseDecoder):
        def __init__(self, vae: VAE) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, z: Tensor) -> ModelOutput:
            with MaskingDisabled():
                return ModelOutput(reconstruction=self.vae.decode(z, whole(z), size))

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
    logging.disable(logging.INFO)  # it tells its settings, and every epoch's loss
    trainer = BaseTrainer(model, dataset, training_config=settings)
    trainer.prepare_training()
    logging.disable(logging.NOTSET)
    rows: Counter[int] = Counter()

    def epoch() -> int:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            trainer.train_step(epoch=1)
        rows[size[0]] += len(dataset)
        return len(dataset)

    def forward(images: Tensor, heights: Tensor) -> Tensor:
        return model({"data": images}).recon_x

    return Peer(epoch, forward, rows)


def diffusers_accelerate(task: Task) -> Peer:
    """diffusers' `AutoencoderKL`, of about our model's FLOPs, in a plain Accelerate loop."""
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
"""Peers by the name they are reported under."""
