"""Figures of a validation: the model's figures, its latent space and nearest neighbours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from shards.reading.batch import Batch
from vaetrain.data.loading import PageReader, TrainingData
from vaetrain.evaluation.latents import ACTIVE_VARIANCE, correlation
from vaetrain.evaluation.retrieval import PageLabels, nearest_of_other_templates
from vaetrain.evaluation.validation import EncodedPages
from vaetrain.model.embedding import EmbeddingSpace
from vaetrain.page_pictures import (
    GAP,
    PAPER,
    as_grey,
    contact_sheet,
    cut_pages,
    error_map,
    rows_of_pages,
)
from vaetrain.prior.prior import Prior
from vaetrain.reporting import charts
from vaetrain.reporting.model_figures import model_figures

TRAVERSED = 6  # dimensions
STEPS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # standard deviations of a traversal
QUERIES, NEIGHBOURS = 4, 5
HISTOGRAMS = 16
MAX_CORRELATED = 512  # dimensions in the picture


def validation_figures(
    model: nn.Module,
    data: TrainingData,
    pages: EncodedPages,
    space: EmbeddingSpace,
    prior: Prior | None = None,
) -> dict[str, np.ndarray]:
    """Draw all figures of a validation, grey, uint8 (H, W), by name.

    Args:
        model: the unwrapped model in evaluation mode.
        pages: its outputs for the compared validation pages.
        space: of the embedding.
        prior: of the samples; None: a standard normal distribution.
    """
    batch = data.fixed_pages()
    figures = model_figures(model, batch, prior) | latent_charts(pages)
    figures |= neighbour_figure(data, pages, batch.ids, space)
    if len(pages.ids) > 1:
        figures["latent/traversals"] = traversals(model, batch, pages)
    return figures


def latent_charts(pages: EncodedPages) -> dict[str, np.ndarray]:
    """Draw charts of the latent dimensions; all but the KL need two pages or more.

    The KL is in nats, mean over pages; of a spatial latent it is summed over a page's positions.
    Ladder levels have a chart of their own. The correlation is absolute, between active dimensions
    in descending order of variance. Histograms are of evenly spaced dimensions in descending order
    of KL.
    """
    dimensions = pages.mu.shape[1]
    kl = pages.kl.mean(dim=0)
    ladder, kl = kl[dimensions:], kl[:dimensions]
    order = kl.argsort(descending=True)
    figures = {"latent/kl_of_dimensions": charts.bars(kl[order].numpy(), "nats")}
    if len(ladder):
        figures["latent/kl_of_ladder_levels"] = charts.bars(ladder.numpy(), "nats")
    if len(pages.ids) < 2:
        return figures
    deviations = pages.mu.double().std(dim=0).sort(descending=True).values
    figures["latent/std_of_mu"] = charts.bars(
        deviations.numpy(), "std", {"active": ACTIVE_VARIANCE**0.5, "prior": 1.0}
    )
    table = correlation(pages.mu)[:MAX_CORRELATED, :MAX_CORRELATED].abs()
    if len(table):
        figures["latent/correlation"] = charts.matrix(table.numpy())
    count = min(HISTOGRAMS, dimensions)
    places = np.linspace(0, dimensions - 1, count).round().astype(int)
    names = [f"mu {order[place]} (KL {kl[order[place]]:.3g})" for place in places]
    figures["latent/histograms"] = charts.histograms(pages.mu[:, order[places]].numpy(), names)
    return figures


@torch.no_grad()
def traversals(model: nn.Module, batch: Batch, pages: EncodedPages) -> np.ndarray:
    """Decode one page with one dimension of its `mu` varied, for the dimensions of largest KL.

    A row is a dimension. Its columns go from -2 to 2 standard deviations around the dimension's
    mean over the compared pages; the last column is the error map between both ends. A spatial
    latent is shifted equally at all positions, so that its mean over the page takes these values.

    Args:
        batch: pages on the host in ascending order of height; the page at a quarter is decoded.
        pages: at least two.
    """
    place = len(batch) // 4
    batch = batch.to(next(model.parameters()).device)
    mu = model.posterior(batch.images(), batch.heights).mu
    mu, height = mu[place : place + 1], batch.heights[place : place + 1]
    own = model.embed(mu, height)[0].cpu()
    largest = pages.kl[:, : model.latent_dim].mean(dim=0).argsort(descending=True)[:TRAVERSED]
    heights, rows = height.expand(len(STEPS)), []
    for dimension in largest.tolist():
        column = pages.mu[:, dimension].double()
        z = mu.repeat(len(STEPS), *[1] * (mu.dim() - 1))
        for step, moved in zip(STEPS, z, strict=True):
            moved[dimension] += float(column.mean() + step * column.std() - own[dimension])
        decoded = model.decode_padded(z, heights, batch.size)
        change = error_map(decoded[:1], decoded[-1:])
        rows.append(np.concatenate([as_grey(decoded), change]))
    return rows_of_pages(rows, np.full(len(STEPS) + 1, int(height)))


def neighbour_figure(
    data: PageReader, pages: EncodedPages, ids: Tensor, space: EmbeddingSpace
) -> dict[str, np.ndarray]:
    """Draw pages, each followed by its nearest pages of other templates by their embeddings.

    Args:
        ids: Long, sample ids among those of `pages`; `QUERIES` of them are drawn.

    Returns: one figure, or none if no page has a neighbour.
    """
    queries = ids[:: -(-len(ids) // QUERIES)].contiguous()
    rows = torch.searchsorted(pages.ids, queries)
    vectors = pages.embeddings(space)
    templates = PageLabels.from_index(data.index, pages.ids).templates
    neighbours = nearest_of_other_templates(vectors, templates, NEIGHBOURS, rows)
    if (neighbours < 0).all():
        return {}
    blank, pictures = np.empty((0, data.config.width), np.uint8), []
    for line in torch.cat([rows[:, None], neighbours], dim=1):
        exists = line[line >= 0]
        batch = data.batch_of(pages.ids[exists].numpy())
        pictures += cut_pages(batch.images(), batch.heights)
        pictures += [blank] * (len(line) - len(exists))
    sheet = contact_sheet(pictures, columns=1 + NEIGHBOURS)
    # A wider gap separates the queries from their neighbours.
    return {"nearest_neighbours": np.insert(sheet, [data.config.width] * 3 * GAP, PAPER, axis=1)}
