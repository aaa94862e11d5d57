"""Embeddings of validation pages for TensorBoard's embedding projector."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from shards.errors import one_line
from vaetrain.data.loading import EVALUATION_BATCH, TrainingData
from vaetrain.inference.embedding import page_features
from vaetrain.model.layers import fit_rows
from vaetrain.page_pictures import BRIGHTNESS
from vaetrain.trackers.base import Projection

MAX_PAGES = 512
SPRITE = 32  # pixels of a sprite's side


@torch.no_grad()
def project_latents(model: nn.Module, data: TrainingData) -> Projection:
    """Embed at most `MAX_PAGES` evenly spaced validation pages by the model's `space`."""
    device = next(model.parameters()).device
    count = min(MAX_PAGES, len(data.val))
    ids = data.val.ids_at(np.linspace(0, len(data.val) - 1, count).round().astype(int))
    mus, structures, sprites = [], [], []
    for part in torch.from_numpy(ids).split(EVALUATION_BATCH):
        batch = data.batch_of(part.numpy()).to(device)
        images = batch.images()
        mu, _, structure = page_features(model, batch)
        top = adaptive_avg_pool2d(fit_rows(images, batch.size[1]), SPRITE)
        sprites.append((top * BRIGHTNESS).clamp(0, 1).cpu())
        mus.append(mu.cpu())
        structures.append(structure.cpu())
    names = []
    for number, row in zip(ids, data.index.rows(ids), strict=True):
        label, template = data.index.labels[row["label"]], data.index.templates[row["template"]]
        names_of_page = (label, template, *data.collator.files.names(number))
        names.append([one_line(name) or "-" for name in names_of_page])
    vectors = model.space.vectors(torch.cat(mus), torch.cat(structures)).float()
    return Projection(vectors, torch.cat(sprites), ["label", "template", "key", "id"], names)
