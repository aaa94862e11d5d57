"""Files of the pages that both own views read, "Map" and "Latent": points, texts and thumbnails.

A static server may not answer requests for parts of a file, so texts and thumbnails are in files of
`BLOCK` pages each, which the browser fetches when it needs them. What is drawn of every page is in
one file of 28 bytes a page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vaetrain.atlas_site.clusters import Clusters
from vaetrain.atlas_site.map_files import cluster_names
from vaetrain.atlas_site.pages import Pages, shown
from vaetrain.atlas_site.projection import Neighbours
from vaetrain.clustering.methods import NOISE

BLOCK = 1000  # pages
MOST_GROUPS = 200  # labels, and templates, that can be told apart on the map: the largest ones


def write_blocks(
    folder: Path,
    pages: Pages,
    places: np.ndarray,
    neighbours: Neighbours,
    clusters: Clusters,
    *,
    opens: bool,
) -> None:
    """Write the pages' values to an existing folder.

    Args:
        places: float32 (N, 2), of `project`.
        opens: whether there is a page "Latent" that opens a page.
    """
    blocks = folder / "blocks"
    blocks.mkdir()
    members = np.full(len(pages), NOISE, np.int32)
    distances = np.full(len(pages), np.nan, np.float32)
    for number, rows in enumerate(pages.blocks(BLOCK)):
        members[rows], distances[rows] = _write_block(
            blocks, number, rows, pages, neighbours, clusters
        )
    index = pages.data.index
    records = index.rows(pages.ids)
    labels, label_numbers = largest_groups(records["label"], index.labels)
    templates, template_numbers = largest_groups(records["template"], index.templates)
    description = {
        "pages": len(pages),
        "block": BLOCK,
        "opens": opens,
        "clusters": _typical(members, distances),
        "labels": labels,
        "templates": templates,
    }
    (folder / "pages.json").write_text(json.dumps(description))
    with (folder / "points.bin").open("wb") as stream:
        for values in (places[:, 0], places[:, 1], pages.heights, pages.errors):
            values.astype("<f4").tofile(stream)
        for values in (members, label_numbers, template_numbers):
            values.astype("<i4").tofile(stream)


def largest_groups(
    numbers: np.ndarray, names: list[str], limit: int = MOST_GROUPS
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return name and size of the largest groups, and the group of each page.

    Args:
        numbers: (N,), places in `names`.

    Returns: the groups in descending order of their sizes, and int32 (N,) places in this order; -1:
    in a smaller group.
    """
    sizes = np.bincount(numbers, minlength=len(names))
    order = np.argsort(-sizes, kind="stable")[:limit]
    order = order[sizes[order] > 0]
    group_of = np.full(len(names), -1, np.int32)
    group_of[order] = np.arange(len(order))
    groups = [{"name": shown(names[number]), "size": int(sizes[number])} for number in order]
    return groups, group_of[numbers]


def _write_block(
    folder: Path,
    number: int,
    rows: slice,
    pages: Pages,
    neighbours: Neighbours,
    clusters: Clusters,
) -> tuple[np.ndarray, np.ndarray]:
    """Write texts and thumbnails of one block; return its clusters and distances in them."""
    keys, page_ids = pages.names(rows)
    labels, templates = pages.labels(rows)
    members, distances = clusters.of(keys)
    pictures = pages.pictures(rows)
    near = [[round(value, 5) for value in row] for row in neighbours.distances[rows].tolist()]
    content = {
        "id": page_ids,
        "label": labels,
        "template": templates,
        "height": pages.heights[rows].tolist(),
        "error": [round(error, 6) for error in pages.errors[rows].tolist()],
        "cluster": members.tolist(),
        "neighbours": neighbours.rows[rows].tolist(),
        "distances": near,
        "ends": np.cumsum([len(picture) for picture in pictures]).tolist(),
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (folder / f"{number}.json").write_text(text, encoding="utf-8")
    (folder / f"{number}.png.bin").write_bytes(b"".join(pictures))
    return members, distances


def _typical(members: np.ndarray, distances: np.ndarray) -> list[dict[str, Any]]:
    """Return name, size and most typical page, the nearest to the centre, of each cluster."""
    found = []
    for cluster in np.unique(members[members != NOISE]):
        rows = np.flatnonzero(members == cluster)
        typical = rows[np.argmin(np.nan_to_num(distances[rows], nan=np.inf))]
        name = cluster_names(np.array([cluster]))[0]
        found.append(
            {"name": name, "number": int(cluster), "size": len(rows), "typical": int(typical)}
        )
    return found
