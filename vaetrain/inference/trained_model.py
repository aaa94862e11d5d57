"""A trained model in use: encode pages, decode latents, sample from the prior."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shards import cli
from shards.errors import UserError
from shards.format.index import HEADER_NAME
from shards.page_file import read_page
from shards.randomness import sample_keys
from shards.reading.batch import Batch
from vaetrain.artifacts.final_model import load_final_prior, load_run
from vaetrain.data.loading import EVALUATION_BATCH, PageReader
from vaetrain.engines.devices import thread_line
from vaetrain.engines.spec import running_launch
from vaetrain.engines.start import start_engine
from vaetrain.inference.embedding import MAX_FITTED_PAGES, Features, features_of
from vaetrain.inference.prior_samples import draw_pages, draw_path, padded_size, path_noise
from vaetrain.inference.refinement import Refinement
from vaetrain.model.embedding import EmbeddingSpace
from vaetrain.model.gaussian import gaussian_kl
from vaetrain.model.layers import fit_rows
from vaetrain.model.vae import VAE
from vaetrain.page_pictures import cut_pages
from vaetrain.settings import ConfigError

NO_PRIOR = "the run has no fitted prior; `python -m vaetrain.fit_prior RUN --shards DIR` fits one"


class TrainedModel:
    """The averaged model of a run on its device.

    The run may be finished, or stopped after a checkpoint.

    Attributes:
        model: the model in evaluation mode.
        experiment: the settings that it was trained with.
        engine: the engine of this launch, in fp32.
        prior: fitted prior of the latents; None: a standard normal distribution.
    """

    def __init__(self, run: Path) -> None:
        """Load the model; raises ConfigError with one line if there is none."""
        self.model, self.experiment = load_run(run)
        self.engine = start_engine(running_launch(os.environ), "no")
        self.model.to(self.engine.device)
        prior = load_final_prior(run)
        self.prior = prior and prior.to(self.engine.device)

    def require_one_process(self, command: str) -> None:
        """Raise UserError if a command that only works as one process was started on ranks."""
        if self.engine.world_size > 1:
            raise UserError(
                f"{command} runs as one process; start it with python, not with accelerate launch"
            )

    def report_threads(self) -> None:
        """Print the number of threads that a command has used, on the main process.

        To stderr, as programs read the output of some commands, and at the end of a command, so
        that a command that fails prints one line.
        """
        if self.engine.is_main:
            print(thread_line(torch.get_num_threads()), file=sys.stderr, flush=True)

    def read_page(self, path: Path) -> Batch:
        """Read one layout or PNG file at the model's size; see `shards.page_file.read_page`."""
        data = self.experiment.data
        return read_page(
            path, width=data.width, max_height=data.max_height, stride=self.model.stride
        )

    def open_shards(self, folder: str | Path) -> PageReader:
        """Open shards at the model's size; raises ConfigError with one line."""
        return PageReader(
            folder,
            self.experiment.data,
            self.engine,
            self.model.stride,
            seed=self.experiment.train.seed,
        )

    def training_shards(self) -> PageReader | None:
        """Open the shards that the run was trained on; None if they are not on this machine.

        Raises ConfigError if they are damaged.
        """
        folder = Path(self.experiment.data.folder)
        return self.open_shards(folder) if (folder / HEADER_NAME).is_file() else None

    def batches(self, data: PageReader, split: str, activity: str) -> Iterable[Batch | None]:
        """Return this rank's batches of `train`, `val` or `all`, with a progress bar."""
        pages = data.select(split)
        total = -(-len(pages) // EVALUATION_BATCH)
        return cli.progress(data.pages(pages), total=total, desc=activity, unit="batch")

    @torch.no_grad()
    def encode(self, batch: Batch) -> Tensor:
        """Encode a batch on any device to one vector a page, (B, D) on the model's device.

        The vector is `mu`; of a spatial latent see `VAE.embed`.
        """
        batch = batch.to(self.engine.device)
        mu, _ = self.model.encode(batch.images(), batch.heights)
        return self.model.embed(mu, batch.heights)

    @torch.no_grad()
    def reconstruct(self, batch: Batch, *, skips: bool = True) -> Tensor:
        """Reconstruct a batch on the device, see `reconstruct`."""
        return reconstruct(self.model, batch, skips=skips)

    @torch.no_grad()
    def reconstruct_refined(
        self, batch: Batch, steps: int, *, skips: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Reconstruct a batch on the device from refined latents, see `Refinement`.

        Returns: images (B, 1, H, W), not clipped, and the KL of the refined latents in nats, (B,).
            Raises ConfigError if weights of a network of the losses are missing.
        """
        posterior = self.model.posterior(batch.images(), batch.heights)
        posterior = self._refinement(posterior, batch, steps, skips=skips)
        output = self.model.reconstruct(posterior, batch.heights, batch.size, skips=skips)
        kl = gaussian_kl(posterior.mu, posterior.logvar)
        return output.reconstruction, kl.flatten(1).sum(1)

    @cached_property
    def _refinement(self) -> Refinement:
        return Refinement(self.model, self.experiment)

    def features(self, data: PageReader, *, to_main: bool = False) -> Features | None:
        """Return the features of all pages. Collective.

        Args:
            to_main: gather on the main process alone; the other ranks return None.

        Raises DamagedShards naming the damaged shard.
        """
        batches = self.batches(data, "all", "encoding")
        return features_of(self.model, batches, self.engine, to_main=to_main)

    def space_for(self, features: Features) -> EmbeddingSpace:
        """Return the space of the embedding.

        It is stored with a finished run. For other runs it is fitted to the pages at hand, without
        those at two widths: metrics of them would be of the pages that were fitted to.
        """
        if self.model.space is not None:
            return self.model.space
        if self.engine.is_main:  # on stderr: the output of a search is one line a page
            print(
                "the run has no statistics of the embedding (it is not finished, or of an older "
                "version): those of the pages at hand are used",
                file=sys.stderr,
            )
        return features.fit(self.model, None)

    def space_of(self, data: PageReader) -> EmbeddingSpace:
        """Return the space of the embedding as `space_for`, for pages of any number.

        That of a run without statistics is fitted to at most `MAX_FITTED_PAGES` of the pages.
        """
        if self.model.space is not None:
            return self.model.space
        some = data.pages(data.select("all").spaced(MAX_FITTED_PAGES))
        return self.space_for(features_of(self.model, some, self.engine))

    def digests(self) -> dict[str, str]:
        """Return SHA-256 digests of the weights, of the embedding's statistics and of the prior.

        They tell whether files that were computed with a model are of this one.
        """
        parts = {"model": self.model.state_dict()}
        if self.model.space is not None:
            parts["embedding"] = self.model.space.tensors()
        if self.prior is not None:
            parts["prior"] = self.prior.tensors()
        return {name: _digest(tensors) for name, tensors in parts.items()}

    @torch.no_grad()
    def latents(self, batches: Sequence[Batch]) -> Tensor:
        """Return the `mu` of single pages, stacked; spatial ones are padded to the tallest."""
        batches = [batch.to(self.engine.device) for batch in batches]
        means = [self.model.encode(batch.images(), batch.heights)[0] for batch in batches]
        if self.model.is_spatial:
            tallest = max(mu.shape[2] for mu in means)
            means = [fit_rows(mu, tallest) for mu in means]
        return torch.cat(means)

    @torch.no_grad()
    def sample(
        self, count: int, height: int | None, seed: int, label: str | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield decoded samples of the prior in batches; page k depends on the seed alone.

        Args:
            height: rows of every page; None: drawn by the prior. A model without a fitted prior
                then makes pages of the greatest height.
            label: that the pages should have; None: any.

        Returns: batches of images (B, 1, H, W), not clipped, and their heights Long (B,), on the
            device. Raises ConfigError for a label that the prior does not know.
        """
        numbers = torch.arange(count)
        keys = sample_keys(seed, torch.zeros_like(numbers), numbers, "prior")
        for part in keys.to(self.engine.device).split(EVALUATION_BATCH):
            yield self._draw(part, height, label)

    def _draw(self, keys: Tensor, height: int | None, label: str | None) -> tuple[Tensor, Tensor]:
        """Draw pages and their heights from the prior."""
        if self.prior is None and label is not None:
            raise ConfigError(f"label {label!r}: {NO_PRIOR}")
        return draw_pages(
            self.model,
            self.prior,
            keys,
            None if height is None else torch.full_like(keys, height),
            width=self.experiment.data.width,
            max_height=self.experiment.data.max_height,
            label=label,
        )

    @torch.no_grad()
    def path_batches(self, path: Tensor, heights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode steps (S, ...) of an interpolation, see `draw_path`, in batches as of `sample`."""
        for part, rows, size in self._parts(path, heights):
            yield draw_path(self.model, self.prior, part, rows, size), rows

    @torch.no_grad()
    def decode(self, z: Tensor, heights: Tensor) -> list[np.ndarray]:
        """Decode latents (N, ...) to pictures of `heights` (N,) rows: uint8 (height, W) each.

        Levels of a ladder are sampled from their priors, with the same noise for all pages.
        """
        pages = []
        for part, rows, size in self._parts(z, heights):
            ladder = path_noise(self.model, len(part), size)
            pages += cut_pages(self.model.decode(part, rows, size, ladder), rows)
        return pages

    def _parts(
        self, z: Tensor, heights: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, tuple[int, int]]]:
        """Yield latents and heights on the device, in batches, and the size of their pages."""
        size = padded_size(self.model, heights, self.experiment.data.width)
        parts = (each.to(self.engine.device).split(EVALUATION_BATCH) for each in (z, heights))
        for part, rows in zip(*parts, strict=True):
            yield part, rows, size


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(tensor.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def reconstruct(model: VAE, batch: Batch, *, skips: bool = True) -> Tensor:
    """Reconstruct a batch on the model's device from its `mu`: (B, 1, H, W), not clipped.

    skips: False: from the latent alone; levels of a ladder are then their prior's means.
    """
    posterior = model.posterior(batch.images(), batch.heights)
    return model.reconstruct(posterior, batch.heights, batch.size, skips=skips).reconstruction
