"""Files of clusters: the table of all pages, the sheet and the summary."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from shards import cli
from shards.atomic_files import atomic_stream, write_atomic, writing
from shards.format.layout import NO_LABEL
from vaetrain.clustering.agreement import Value
from vaetrain.clustering.clusters import Clustering
from vaetrain.clustering.methods import NOISE
from vaetrain.clustering.sheet import MAX_ROWS, ClusterRow, draw_clusters, shown_pages
from vaetrain.data.loading import PageReader
from vaetrain.model.embedding import NAME
from vaetrain.page_pictures import cut_pages

TABLE, SHEET, SUMMARY = "clusters.parquet", "clusters.png", "clusters.json"
ROWS = 16_384  # of the table that are in memory at once
COMMON_LABELS = 3


def write_table(path: Path, data: PageReader, clustering: Clustering) -> None:
    """Write one row a page, in order of sample ids.

    Columns: `id`, the sample id; `key`, `label`, `template` and `page_id`, the page's own id;
    `cluster`, `distance` and `probability`, see `Clustering`.

    Raises CannotWrite, and DamagedShards naming the damaged shard.
    """
    # A local import: pyarrow is not needed for anything else.
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    texts = ("key", "label", "template", "page_id")
    numbers = {"cluster": pa.int32(), "distance": pa.float32(), "probability": pa.float32()}
    fields = [("id", pa.int64()), *((name, pa.string()) for name in texts), *numbers.items()]
    schema = pa.schema(fields, {"embedding": NAME})
    index, names = data.index, data.collator.files.names
    labels, templates = np.array(index.labels), np.array(index.templates)
    pages = len(clustering.labels)
    bar = cli.progress(total=pages, desc="writing", unit="page")
    with writing(path), bar, atomic_stream(path) as stream, ParquetWriter(stream, schema) as writer:
        for first in range(0, pages, ROWS):
            part = slice(first, min(first + ROWS, pages))
            ids = np.arange(part.start, part.stop)
            rows = index.rows(ids)
            keys, page_ids = zip(*(names(number) for number in ids), strict=True)
            columns = [ids, keys, labels[rows["label"]], templates[rows["template"]]]
            columns += [page_ids, clustering.labels[part]]
            columns += [clustering.distances[part], clustering.probabilities[part]]
            arrays = [
                pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            bar.update(len(ids))


def describe_clusters(
    data: PageReader,
    clustering: Clustering,
    groups: np.ndarray,
    agreed: dict[str, Value] | None,
) -> dict[str, Any]:
    """Return the summary of `write_summary`.

    Args:
        groups: int64 (N,), see `subset.page_groups`.
        agreed: agreement with the labels; None: the pages have no labels.
    """
    labels, options, best = clustering.labels, clustering.options, clustering.search.best
    return {
        "clusters": clustering.count,
        "requested": options.clusters or "auto",
        "method": options.method,
        "by_page": options.by_page,
        "seed": options.seed,
        "structure": clustering.search.has_structure,
        "verdict": clustering.verdict,
        "p": clustering.search.p,
        "silhouette": clustering.silhouette if clustering.count > 1 else None,
        "stability": best.stability if clustering.count > 1 else None,
        "gaussian_silhouette": best.null_silhouette,
        "gaussian_stability": best.null_stability,
        "agreement": None if agreed is None else {k: asdict(v) for k, v in agreed.items()},
        "pages": len(labels),
        "templates": int(groups.max()) + 1,
        "noise": int((labels == NOISE).sum()),
        "fitted_pages": clustering.fitted,
        "near_duplicates": clustering.near_duplicates,
        "embedding": NAME,
        "shards": data.index.location,
        "tried": [asdict(trial) for trial in clustering.search.trials],
        "each": [
            _describe(data, clustering, groups, cluster) for cluster in range(clustering.count)
        ],
    }


def _describe(
    data: PageReader, clustering: Clustering, groups: np.ndarray, cluster: int
) -> dict[str, Any]:
    rows = np.flatnonzero(clustering.labels == cluster)
    medoid = int(clustering.medoids[cluster])
    key, page_id = data.collator.files.names(medoid)
    quantiles = np.quantile(clustering.distances[rows], (0.1, 0.5, 0.9)).tolist()
    stability = float(clustering.stabilities[cluster])
    return {
        "cluster": cluster,
        "pages": len(rows),
        "templates": len(np.unique(groups[rows])),
        "stability": None if np.isnan(stability) else stability,
        "distance": dict(zip(("p10", "median", "p90"), quantiles, strict=True)),
        "medoid": {"id": medoid, "key": key, "page_id": page_id},
        "labels": common_labels(data, rows),
    }


def common_labels(data: PageReader, rows: np.ndarray) -> dict[str, float]:
    """Return the most common labels of some pages, with their shares; without pages of none."""
    counts = np.bincount(data.index.rows(rows)["label"], minlength=len(data.index.labels))
    names = {data.index.labels[at]: int(counts[at]) for at in np.argsort(-counts, kind="stable")}
    names = {name: count for name, count in names.items() if count and name != NO_LABEL}
    return {name: names[name] / len(rows) for name in list(names)[:COMMON_LABELS]}


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write the summary as JSON; raises CannotWrite."""
    with writing(path):
        write_atomic(path, json.dumps(summary, indent=2) + "\n")


def write_sheet(
    path: Path,
    data: PageReader,
    clustering: Clustering,
    groups: np.ndarray,
    summary: dict[str, Any],
) -> None:
    """Draw the sheet of all clusters, at most `MAX_ROWS`; raises CannotWrite and DamagedShards."""
    shown = summary["each"][:MAX_ROWS]
    rows = [_row(data, clustering, groups, each) for each in shown]
    if summary["noise"]:
        noise = {"cluster": NOISE, "pages": summary["noise"], "stability": None, "labels": {}}
        noise["templates"] = len(np.unique(groups[clustering.labels == NOISE]))
        rows.append(_row(data, clustering, groups, noise))
    kinds = "cluster" if clustering.count == 1 else "clusters"
    title = f"{clustering.count} {kinds} of {summary['pages']:,} pages ({summary['method']})"
    if len(shown) < clustering.count:
        title += f"; the {len(shown)} largest"
    with writing(path):
        write_atomic(path, draw_clusters(title, summary["verdict"], rows))


def _row(
    data: PageReader, clustering: Clustering, groups: np.ndarray, each: dict[str, Any]
) -> ClusterRow:
    cluster, medoid = each["cluster"], each.get("medoid", {}).get("id")
    typical, atypical = shown_pages(
        clustering.labels, clustering.distances, groups, cluster, medoid
    )
    share = each["pages"] / len(clustering.labels)
    lines = [f"{each['pages']:,} pages, {share:.0%}", f"{each['templates']:,} templates"]
    if each["stability"] is not None:
        lines.append(f"stability {each['stability']:.2f}")
    lines += ["", *(f"{part:.0%} {name}" for name, part in each["labels"].items())]
    ids = np.array([] if medoid is None else [medoid], np.int64)
    ids = np.concatenate([ids, np.array(typical + atypical, np.int64)])
    batch = data.batch_of(ids)
    pictures = cut_pages(batch.images(), batch.heights)
    ends = np.cumsum([0 if medoid is None else 1, len(typical)])
    parts = pictures[: ends[0]], pictures[ends[0] : ends[1]], pictures[ends[1] :]
    distances = clustering.distances[clustering.labels == cluster]
    return ClusterRow(cluster, lines, *parts, distances)
