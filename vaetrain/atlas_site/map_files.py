"""The map of all pages: the application of the package embedding-atlas with a table of the pages.

Only the static files of the package are used; none of its Python modules is imported, so its many
dependencies are not needed.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from shards.errors import UserError
from vaetrain.atlas_site.clusters import Clusters
from vaetrain.atlas_site.pages import Pages
from vaetrain.atlas_site.projection import Neighbours
from vaetrain.clustering.methods import NOISE

PACKAGE = "embedding-atlas"  # 0.22 draws with WebGL where there is no WebGPU; later ones do not
ROWS = 8192  # pages in a row group of the table
# Not copied: the database for browsers older than 2022, and what runs text models, which are loaded
# from another server.
LEFT_OUT = ("duckdb-mvp-*", "duckdb-browser-mvp*", "wasm_mvp", "embedding.worker-*", "ort-wasm-*")
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'none'"
)
NEIGHBOUR_TYPE = pa.struct([("ids", pa.list_(pa.int32())), ("distances", pa.list_(pa.float32()))])


def application_version() -> str:
    """Return the version of the package; raises UserError if it is missing."""
    application_files()
    return importlib.metadata.version(PACKAGE)


def application_files() -> Path:
    """Return the folder of the package's static files; raises UserError if it is missing."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"the atlas needs {PACKAGE}; install it with: pip install --no-deps -r launch/atlas.txt"
        ) from None
    folder = Path(str(distribution.locate_file("embedding_atlas/static")))
    if not (folder / "index.html").is_file():
        raise UserError(f"{folder}: has no index.html; install {PACKAGE} again")
    return folder


def write_map(
    folder: Path,
    pages: Pages,
    places: np.ndarray,
    neighbours: Neighbours,
    clusters: Clusters,
    *,
    opens: bool,
) -> None:
    """Write the application and its table.

    Args:
        folder: does not exist yet.
        places: float32 (N, 2), of `project`.
        opens: whether there is a page "Latent" that opens a page.
    """
    source = application_files()
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    page = (source / "index.html").read_text()
    head = f'<head>\n    <meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    head += '\n    <link rel="icon" href="data:,">'
    if page.count("<head>") != 1:
        raise UserError(f"{source}: an unknown form of index.html; use {PACKAGE} 0.22")
    (folder / "index.html").write_text(page.replace("<head>", head))
    (folder / "data").mkdir()
    writer = None
    for rows in pages.blocks(ROWS):
        table = _table_of(rows, pages, places, neighbours, clusters)
        table = table if opens else table.drop_columns("open")
        if writer is None:
            file = folder / "data" / "dataset.parquet"
            writer = parquet.ParquetWriter(file, table.schema, compression="zstd")
        writer.write_table(table)
    writer.close()
    metadata = _metadata(clusters.path is not None)
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))


def _table_of(
    rows: slice, pages: Pages, places: np.ndarray, neighbours: Neighbours, clusters: Clusters
) -> pa.Table:
    keys, page_ids = pages.names(rows)
    labels, templates = pages.labels(rows)
    near = [
        {"ids": ids, "distances": distances}
        for ids, distances in zip(
            neighbours.rows[rows].tolist(), neighbours.distances[rows].tolist(), strict=True
        )
    ]
    numbers = np.arange(rows.start, rows.stop, dtype=np.int32)
    columns = {
        "page": pa.array(numbers),
        "picture": pa.array(pages.pictures(rows), pa.binary()),
        "id": pa.array(page_ids),
        "label": pa.array(labels),
        "template": pa.array(templates),
        "height": pa.array(pages.heights[rows]),
        "error": pa.array(pages.errors[rows]),
        "open": pa.array([f"../latent.html#page={number}" for number in numbers]),
        "key": pa.array(keys),
        "x": pa.array(places[rows, 0]),
        "y": pa.array(places[rows, 1]),
        "__neighbours": pa.array(near, NEIGHBOUR_TYPE),
    }
    if clusters.path is not None:
        members, distances = clusters.of(keys)
        columns["cluster"] = pa.array(cluster_names(members))
        columns["distance"] = pa.array(distances)
    return pa.table(columns)


def cluster_names(numbers: np.ndarray) -> list[str]:
    """Return the names of clusters by their numbers, int32 (N,)."""
    return ["no cluster" if number == NOISE else f"cluster {number}" for number in numbers]


def _metadata(has_clusters: bool) -> dict:
    """Return the description of the table that the application reads."""
    data = {
        "id": "page",
        "text": "id",
        "image": "picture",
        "neighbors": "__neighbours",
        "projection": {"x": "x", "y": "y"},
    }
    view = {"x": "x", "y": "y", "text": "id", "image": "picture", "neighbors": "__neighbours"}
    view["category"] = "cluster" if has_clusters else "label"
    styles = {
        "picture": {"renderer": "image", "display": "full", "options": {"size": 120}},
        "open": {"renderer": "url", "display": "full"},
        **{name: {"display": "hidden"} for name in ("page", "key", "x", "y")},
    }
    return {
        "props": {
            "data": data,
            "embeddingViewConfig": {"autoLabelEnabled": False},
            "defaultChartsConfig": {
                "exclude": ["page", "picture", "id", "key", "open", "x", "y"],
                "embedding": {"title": "Map", "data": view},
            },
            "initialState": {"columnStyles": styles},
        },
        "isStatic": True,
        "database": {"type": "wasm", "load": True},
    }
