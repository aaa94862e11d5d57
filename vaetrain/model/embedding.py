"""The embedding: one vector a page, whose Euclidean distances measure how unlike pages are.

Search, neighbours, clusters and the metrics of them all use it. A VAE's latent alone will not do:
it describes a page's pixels, and large areas dominate it. The vector has three parts, each centred,
scaled and brought to a fixed length, so that distances are those of cosines:

- `mu`, in units of the square root of the posterior's deviation;
- edges: mean absolute differences of neighbouring pixels in cells anchored at the top of the page.
  They show where boxes lie;
- statistics that a page keeps at another width: the shares of its grey levels (nesting depths),
  means over bins relative to its height, of the page and of the encoder's last map, and its height.
  They are projected on directions in which a page differs little from itself at its other width
  (relevant component analysis with Fisher's discriminant, Bar-Hillel et al. 2005).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vaetrain.model.encoder import Level
from vaetrain.model.layers import fit_rows
from vaetrain.model.masked import PyramidPool, rows_at
from vaetrain.model.pca import principal_components

NAME = "latent-edges-widths"  # in the files; another definition of the vectors needs another name
CELLS = 4  # of edges, per row of a page; cells are square
LEVELS = 25  # grey levels that are counted; real pages are at most 19 levels deep
LEVEL = 1 / 40  # grey value of one level
PAGE_BINS = PyramidPool([8])  # of the page: 8 x 8 bins
MAP_BINS = PyramidPool([1, 2])  # of the encoder's last map
MU_SHARE, EDGES_SHARE, STATISTICS_SHARE = 0.25, 0.25, 0.5  # in squared distances
# Floor of a deviation, relative to the mean deviation: dimensions that hardly vary would dominate
# the others.
MIN_RELATIVE_DEVIATION = 0.1
MAX_COMPONENTS, MAX_DIRECTIONS = 100, 40
PAGES_PER_COMPONENT = 10


class StructureSizes(NamedTuple):
    """Numbers of columns of a page's structure, see `page_structure`."""

    edges: int
    levels: int
    bins: int
    maps: int
    height: int


def structure_sizes(rows: int, width: int, channels: int) -> StructureSizes:
    """Return the sizes of `page_structure`.

    Args:
        rows, width: of the tallest image.
        channels: of the encoder's last map.
    """
    cells = CELLS * -(-rows // (width // CELLS))
    return StructureSizes(2 * cells, LEVELS, 3 * PAGE_BINS.bins, channels * MAP_BINS.bins, 1)


def page_structure(images: Tensor, heights: Tensor, rows: int, last_map: Level) -> Tensor:
    """Return edges and statistics of pages: float32 (B, S), the same for any padding.

    Args:
        images: (B, 1, H, W) in [0, 1], 0 below the pages.
        heights: Long (B,), valid rows.
        rows: of the tallest image, whatever H is.
        last_map: the encoder's last map and its valid rows.
    """
    on_page = rows_at(heights, images.shape[2])
    x = images.float()
    across = F.pad((x[..., 1:] - x[..., :-1]).abs(), (0, 1))
    # Without the difference between a page's last row and the padding, which not every batch has.
    down = F.pad((x[:, :, 1:] - x[:, :, :-1]).abs() * on_page.mask[:, :, 1:], (0, 0, 0, 1))
    cell = images.shape[3] // CELLS
    edges = fit_rows(torch.cat([across, down], 1), -(-rows // cell) * cell)
    parts = [
        F.avg_pool2d(edges, cell).flatten(1),
        level_shares(x, heights),
        PAGE_BINS(torch.cat([x, across, down], 1), on_page),
        MAP_BINS(*last_map),
        heights[:, None].float().log(),
    ]
    return torch.cat(parts, 1)


def level_shares(images: Tensor, heights: Tensor) -> Tensor:
    """Return the square roots of the shares of a page's pixels in each grey level: (B, LEVELS).

    Euclidean distances of square roots of shares are Hellinger distances.
    """
    levels = (images[:, 0] / LEVEL).round().long().clamp(0, LEVELS - 1)
    # Padding is counted in a level of its own, which is dropped. Counts are exact in float32.
    is_padding = torch.arange(images.shape[2], device=images.device) >= heights[:, None]
    levels = levels.masked_fill(is_padding[:, :, None], LEVELS).flatten(1)
    counts = images.new_zeros(len(images), LEVELS + 1)
    counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=counts.dtype))
    return (counts[:, :LEVELS] / (heights[:, None] * images.shape[3])).sqrt()


@dataclass(frozen=True)
class EmbeddingSpace:
    """Statistics that turn the features of a page into its embedding; float64.

    Attributes:
        mu_centre, mu_unit: (D,).
        edges_centre, edges_unit: (E,).
        statistics_centre: (T,).
        directions: (T, K), K at most `MAX_DIRECTIONS`.
    """

    mu_centre: Tensor
    mu_unit: Tensor
    edges_centre: Tensor
    edges_unit: Tensor
    statistics_centre: Tensor
    directions: Tensor

    @classmethod
    def fit(
        cls,
        mu: Tensor,
        logvar: Tensor,
        structure: Tensor,
        sizes: StructureSizes,
        pairs: Tensor | None = None,
    ) -> EmbeddingSpace:
        """Compute the statistics of N pages.

        Args:
            mu, logvar: (N, D).
            structure: (N, S), of `page_structure`.
            sizes: of the structure.
            pairs: Long (P, 2), rows of pages that are one page at two widths; None or P = 0: the
                statistics' principal components replace the directions.
        """
        mu, logvar = mu.double(), logvar.double()
        edges, statistics = structure.double().split([sizes.edges, sum(sizes[1:])], dim=1)
        # Each kind of statistics has the same weight, whatever its number of columns.
        scale = torch.cat([statistics.new_full((n,), n**0.5) for n in sizes[1:]])
        unit = scale * _deviation(statistics)
        centre = statistics.mean(dim=0)
        axes = _directions((statistics - centre) / unit, pairs)
        return cls(
            mu_centre=mu.mean(dim=0),
            mu_unit=(logvar / 2).exp().mean(dim=0).sqrt(),
            edges_centre=edges.mean(dim=0),
            edges_unit=_deviation(edges),
            statistics_centre=centre,
            directions=axes / unit[:, None],
        )

    def vectors(self, mu: Tensor, structure: Tensor) -> Tensor:
        """Return the embeddings of any M pages: float64 (M, D + E + K), of length 1."""
        edges, statistics = structure.double().split(
            [len(self.edges_centre), len(self.statistics_centre)], dim=1
        )
        parts = (
            (MU_SHARE, (mu.double() - self.mu_centre) / self.mu_unit),
            (EDGES_SHARE, (edges - self.edges_centre) / self.edges_unit),
            (STATISTICS_SHARE, (statistics - self.statistics_centre) @ self.directions),
        )
        return torch.cat([share**0.5 * F.normalize(part, dim=1) for share, part in parts], 1)

    def fits(self, dimensions: int, sizes: StructureSizes) -> bool:
        """Return whether the space is of vectors with these sizes, see `fit`."""
        statistics, kept = self.directions.shape
        shapes = [each.shape for each in self.tensors().values()]
        of_mu, of_edges = (dimensions,), (sizes.edges,)
        expected = [of_mu, of_mu, of_edges, of_edges, (sum(sizes[1:]),), (statistics, kept)]
        return shapes == expected and statistics == sum(sizes[1:])

    def tensors(self) -> dict[str, Tensor]:
        """Return all statistics by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> EmbeddingSpace:
        """Return the space of stored `tensors`; raises KeyError if one is missing."""
        return cls(**{field.name: tensors[field.name] for field in fields(cls)})


def _deviation(table: Tensor) -> Tensor:
    """Return the standard deviation of each column of (N, C), at least a floor above 0."""
    deviation = table.std(dim=0, correction=0)
    floor = MIN_RELATIVE_DEVIATION * deviation.mean()
    return deviation.maximum(floor.clamp(min=torch.finfo(torch.float32).tiny))


def _directions(table: Tensor, pairs: Tensor | None) -> Tensor:
    """Return the directions of (N, T), centred, in which paired rows differ least: (T, K).

    Projections on the table's principal components are whitened, so that the covariance within
    pairs is relative to that of all pages. In its eigenvectors of smallest eigenvalue the rows of a
    pair differ little; they are divided by the root of the eigenvalue. It is shrunk towards a
    multiple of the identity, the more the fewer pairs there are.
    """
    count = min(MAX_COMPONENTS, 1 + len(table) // PAGES_PER_COMPONENT)
    _, components, deviations = principal_components(table, count)
    axes = (components / deviations[:, None]).T
    kept = min(MAX_DIRECTIONS, axes.shape[1])
    if pairs is None or not len(pairs):
        return axes[:, :kept]
    whitened = table @ axes
    difference = whitened[pairs[:, 0]] - whitened[pairs[:, 1]]
    within = difference.T @ difference / (2 * len(pairs))
    size = len(within)
    share = size / (size + len(pairs))
    identity = torch.eye(size, dtype=within.dtype, device=within.device)
    within = (1 - share) * within + share * within.trace() / size * identity
    values, vectors = torch.linalg.eigh(within)
    return axes @ (vectors / values.sqrt())[:, :kept]
