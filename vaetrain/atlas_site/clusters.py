"""Clusters of pages, as `vaetrain.cluster` writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from shards.errors import UserError
from vaetrain.clustering.files import TABLE
from vaetrain.clustering.methods import NOISE

COLUMNS = ["key", "cluster", "distance"]


@dataclass
class Clusters:
    """Cluster of each page, by the page's key in the shards.

    Attributes:
        cluster_of: number of the cluster and distance from its centre, by key.
        path: file that they were read from; None: there are no clusters.
    """

    cluster_of: dict[str, tuple[int, float]] = field(default_factory=dict)
    path: Path | None = None

    def of(self, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the clusters int32 and distances float32 of pages; `NOISE` and nan: none."""
        pairs = [self.cluster_of.get(key, (NOISE, np.nan)) for key in keys]
        numbers, distances = zip(*pairs, strict=True)
        return np.array(numbers, np.int32), np.array(distances, np.float32)


def read_clusters(path: Path | None) -> Clusters:
    """Read a file of clusters, or the one in a folder; None: no clusters.

    Raises UserError naming the file and its fault.
    """
    if path is None:
        return Clusters()
    file = path / TABLE if path.is_dir() else path
    try:
        table = parquet.read_table(file, columns=COLUMNS)
        keys = table["key"].cast(pa.string()).to_pylist()
        numbers = table["cluster"].cast(pa.int32()).fill_null(NOISE).to_pylist()
        distances = table["distance"].cast(pa.float32()).fill_null(float("nan")).to_pylist()
    except FileNotFoundError:
        raise UserError(
            f"{file}: no such file; `python -m vaetrain.cluster RUN --shards DIR --out DIR` writes "
            f"a {TABLE}"
        ) from None
    except (pa.ArrowException, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{file}: is no file of clusters with the columns {', '.join(COLUMNS)} ({reason})"
        ) from None
    return Clusters(dict(zip(keys, zip(numbers, distances, strict=True), strict=True)), file)
