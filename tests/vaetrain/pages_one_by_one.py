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

SAMPLE_FILE = SAMPLE / "npm-sample.jsonl.gz"
WIDTH, MAX_HEIGHT = 64, 128


@torch.no_grad()
def encode_one_by_one(folder: Path, numbers: range) -> list[np.ndarray]:
    """Return `mu`, `logvar` and structure of pages, encoded one by one, in float64."""
    model = load_model(folder / "run")
    files = ShardFiles(open_index(folder / "shards"))
    ladder = height_ladder(MAX_HEIGHT, model.stride)
    collator = Collator(files, width=WIDTH, max_height=MAX_HEIGHT, ladder=ladder, seed=0)
    parts = []
    for number in numbers:
        page = collator.batch(np.array([number]), np.array([0]), training=False)
        mu, logvar, levels = model.posterior(page.images(), page.heights)
        parts.append((mu, logvar, cell_statistics(levels[0][0][0])))
    return [torch.cat(part).double().numpy() for part in zip(*parts, strict=True)]


def cell_statistics(features: torch.Tensor) -> torch.Tensor:
    """Return mean and deviation of one page's map (C, H, W) in cells of a quarter of its width."""
    cell = features.shape[2] // 4
    whole = torch.zeros(len(features), MAX_HEIGHT // 2, features.shape[2])
    whole[:, : features.shape[1]] = features
    cells = whole.unfold(1, cell, cell).unfold(2, cell, cell)
    means, deviations = cells.mean(dim=(3, 4)), cells.std(dim=(3, 4), correction=0)
    return torch.cat([means.flatten(), deviations.flatten()])[None]
