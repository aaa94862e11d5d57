"""Reference for inference: pages of the `run_folder` fixture encoded one by one."""

from pathlib import Path

import numpy as np
import torch

from shards.open import open_index
from shards.reading.collator import Collator
from shards.reading.height_ladder import height_ladder
from shards.reading.shard_files import ShardFiles
from tests.support.paths import SAMPLE
from vaetrain import load_model
from vaetrain.model.embedding import EmbeddingSpace

SAMPLE_FILE = SAMPLE / "npm-sample.jsonl.gz"
WIDTH, MAX_HEIGHT = 64, 128


@torch.no_grad()
def encode_one_by_one(folder: Path, numbers: range) -> list[torch.Tensor]:
    """Return `mu`, `logvar` and structure of pages, encoded one by one."""
    model = load_model(folder / "run")
    files = ShardFiles(open_index(folder / "shards"))
    ladder = height_ladder(MAX_HEIGHT, model.stride)
    collator = Collator(files, width=WIDTH, max_height=MAX_HEIGHT, ladder=ladder, seed=0)
    parts = []
    for number in numbers:
        page = collator.batch(np.array([number]), np.array([0]), training=False)
        images = page.images()
        mu, logvar, levels = model.posterior(images, page.heights)
        parts.append((mu, logvar, model.structure(images, page.heights, levels)))
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def fitted_space(folder: Path, count: int) -> EmbeddingSpace:
    """Fit a space to the first `count` pages of the fixture, without pages at two widths."""
    sizes = load_model(folder / "run").structure_sizes
    return EmbeddingSpace.fit(*encode_one_by_one(folder, range(count)), sizes)
