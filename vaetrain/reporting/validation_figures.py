"""What a validation shows: pages and what the model makes of them, and its latent space."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from shards.reading.batch import Batch
from vaetrain.data.loading import PageReader, TrainingData
from vaetrain.evaluation.latents import ACTIVE_VARIANCE, correlation
from vaetrain.evaluation.retrieval import PageLabels, nearest_of_other_templates
from vaetrain.evaluation.validation import EncodedPages
from vaetrain.page_pictures import (
    GAP,
    PAPER,
    as_grey,
    contact_sheet,
    cut_pages,
    error_map,
    rows_of_pages,
)
from vaetrain.reporting import charts
from vaetrain.reporting.model_figures import model_figures

TRAVERSED, STEPS = 6, (-2.0, -1.0, 0.0, 1.0, 2.0)  # dimensions; standard deviations
QUERIES, NEIGHBOURS = 4, 5
HISTOGRAMS = 16
MOST_CORRELATED = 512  # dimensions, in a picture


def validation_figures(
    model: nn.Module, data: TrainingData, pages: EncodedPages
) -> dict[str, np.ndarray]:
    """All pictures of a validation, grey, uint8 (H, W), by name.

    Args:
        model: whole, in evaluation.
        pages: what it makes of all validation pages.
    """
    batch = data.fixed_pages()
    shown = model_figures(model, batch) | latent_charts(pages) | neighbours(data, pages, batch.ids)
    if len(pages.ids) > 1:
        shown["latent/traversals"] = traversals(model, batch, pages)
    return shown


def latent_charts(pages: EncodedPages) -> dict[str, np.ndarray]:
    """Charts of the latent dimensions; what needs a variance, of two pages or more.

    The KL is in nats, mean over pages, of a spatial latent summed over a page's places; a ladder's
    levels have a chart of their own. The correlation is absolute, of the active dimensions, most
    varied first. Histograms are of dimensions from the one with the largest KL to the one with the
    smallest.
    """
    dimensions = pages.mu.shape[1]
    kl = pages.kl.mean(dim=0)
    ladder, kl = kl[dimensions:], kl[:dimensions]
    order = kl.argsort(descending=True)
    shown = {"latent/kl_of_dimensions": charts.bars(kl[order].numpy(), "nats")}
    if len(ladder):
        shown["latent/kl_of_ladder_levels"] = charts.bars(ladder.numpy(), "nats")
    if len(pages.ids) < 2:
        return shown
    deviations = pages.mu.double().std(dim=0).sort(descending=True).values
    shown["latent/std_of_mu"] = charts.bars(
        deviations.numpy(), "std", {"active": ACTIVE_VARIANCE**0.5, "prior": 1.0}
    )
    table = correlation(pages.mu)[:MOST_CORRELATED, :MOST_CORRELATED].abs()
    if len(table):
        shown["latent/correlation"] = charts.matrix(table.numpy())
    count = min(HISTOGRAMS, dimensions)
    places = np.linspace(0, dimensions - 1, count).round().astype(int)
    names = [f"mu {order[place]} (KL {kl[order[place]]:.3g})" for place in places]
    shown["latent/histograms"] = charts.histograms(pages.mu[:, order[places]].numpy(), names)
    return shown


@torch.no_grad()
def traversals(model: nn.Module, batch: Batch, pages: EncodedPages) -> np.ndarray:
    """One page, decoded with one dimension of its `mu` moved; the dimensions with the largest KL.

    A row is a dimension, its columns go from -2 to 2 standard deviations around its mean over the
    validation pages; the last column is where the ends differ. A spatial latent is moved by the
    same at all places, so that its mean over the page is there.

    Args:
        batch: pages on the host, from low to tall; it is the one a quarter up.
        pages: at least two.
    """
    place = len(batch) // 4
    batch = batch.to(next(model.parameters()).device)
    mu, _ = model.encode(batch.images(), batch.heights)
    mu, height = mu[place : place + 1], batch.heights[place : place + 1]
    own = model.embed(mu, height)[0].cpu()
    largest = pages.kl[:, : model.latent_dim].mean(dim=0).argsort(descending=True)[:TRAVERSED]
    heights, rows = height.expand(len(STEPS)), []
    for dimension in largest.tolist():
        column = pages.mu[:, dimension].double()
        z = mu.repeat(len(STEPS), *[1] * (mu.dim() - 1))
        for step, moved in zip(STEPS, z, strict=True):
            moved[dimension] += float(column.mean() + step * column.std() - own[dimension])
        decoded = model.decode(z, heights, batch.size)
        change = error_map(decoded[:1], decoded[-1:])
        rows.append(np.concatenate([as_grey(decoded), change]))
    return rows_of_pages(rows, np.full(len(STEPS) + 1, int(height)))


def neighbours(data: PageReader, pages: EncodedPages, ids: Tensor) -> dict[str, np.ndarray]:
    """Some pages, each followed by its nearest pages of other templates, by `search`'s distance.

    Args:
        ids: Long, sample ids among those of `pages`, of which some are asked.

    Returns: one picture, or none where no page has a neighbour.
    """
    asked = ids[:: -(-len(ids) // QUERIES)].contiguous()
    rows = torch.searchsorted(pages.ids, asked)
    vectors = pages.search_vectors()
    templates = PageLabels.from_index(data.index, pages.ids).templates
    found = nearest_of_other_templates(vectors, templates, NEIGHBOURS, rows)
    if (found < 0).all():
        return {}
    blank, shown = np.empty((0, data.config.width), np.uint8), []
    for line in torch.cat([rows[:, None], found], dim=1):
        there = line[line >= 0]
        drawn = _read(data, pages.ids[there])
        shown += cut_pages(drawn.images(), drawn.heights) + [blank] * (len(line) - len(there))
    sheet = contact_sheet(shown, columns=1 + NEIGHBOURS)
    return {"nearest_neighbours": np.insert(sheet, [data.config.width] * 3 * GAP, PAPER, axis=1)}


def _read(data: PageReader, ids: Tensor) -> Batch:
    """The pages with these sample ids, on the host."""
    numbers = ids.numpy()
    return data.collator.batch(numbers, np.zeros_like(numbers), training=False)
