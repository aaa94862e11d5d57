"""Files of the page "Latent": the models as ONNX, and the pages in blocks.

A static server may not answer requests for parts of a file, so the values of the pages are in
files of `BLOCK` pages each, which the browser fetches when it needs them.
"""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from shards.randomness import purpose_root
from vaetrain.atlas_site.clusters import Clusters
from vaetrain.atlas_site.graphs import write_embedder, write_velocity
from vaetrain.atlas_site.map_files import cluster_names
from vaetrain.atlas_site.pages import Pages, shown
from vaetrain.atlas_site.projection import Neighbours
from vaetrain.clustering.methods import NOISE
from vaetrain.inference.onnx_graph import DecoderGraph, write_graph
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.model.embedding import EmbeddingSpace
from vaetrain.page_pictures import BRIGHTNESS
from vaetrain.prior.prior import GUIDANCE, Prior

BLOCK = 1000  # pages
DIRECTIONS = 8  # principal directions of the latents
SEEDS = 1000  # of samples
MOST_FITTED = 20_000  # pages that the directions are computed of
RUNTIME = Path(__file__).parent / "runtime"
WASM = "ort-wasm-simd-threaded.wasm"
SCRIPT = "ort.wasm.bundle.min.mjs"


def reason_against(trained: TrainedModel) -> str | None:
    """Return why the page cannot be made for a model; None: it can."""
    if trained.model.is_spatial:
        return "its latent is spatial"
    if trained.model.ladder_levels:
        return "its decoder has latents of its own (model.skips=hierarchical)"
    return None


def write_latent(
    folder: Path,
    trained: TrainedModel,
    space: EmbeddingSpace,
    pages: Pages,
    places: np.ndarray,
    neighbours: Neighbours,
    clusters: Clusters,
) -> None:
    """Write the models, the runtime and the pages' values to an existing folder.

    Raises UserError if a graph differs from PyTorch.
    """
    model, data = trained.model.cpu(), trained.experiment.data
    _write_runtime(folder / "runtime")
    graphs = folder / "graphs"
    graphs.mkdir()
    write_embedder(model, space, graphs / "embedder.onnx")
    decoder = DecoderGraph(model, data.width, data.max_height)
    write_graph(decoder, graphs / "decoder.onnx", data.width, data.max_height)
    prior = trained.prior and trained.prior.to("cpu")
    if prior is not None:
        write_velocity(prior.flow, graphs / "velocity.onnx")
    blocks = folder / "blocks"
    blocks.mkdir()
    members = np.full(len(pages), NOISE, np.int32)
    labels: dict[str, int] = {}
    label_numbers = np.zeros(len(pages), np.uint16)
    closeness = np.full(len(pages), np.nan, np.float32)
    for number, rows in enumerate(pages.blocks(BLOCK)):
        content = _block(rows, pages, neighbours, clusters)
        members[rows], closeness[rows] = content["cluster"], content.pop("distances_in_cluster")
        for row, label in zip(range(rows.start, rows.stop), content["label"], strict=True):
            label_numbers[row] = labels.setdefault(label, min(len(labels), 65535))
        _write_block(blocks, number, rows, pages, content)
    latents = np.array(pages.mu[:: max(1, len(pages) // MOST_FITTED)])
    description = {
        "pages": len(pages),
        "block": BLOCK,
        "dimensions": pages.mu.shape[1],
        "embedding": pages.vectors.shape[1],
        "width": data.width,
        "max_height": data.max_height,
        "stride": model.stride,
        "rows": model.size[0],
        "brightness": BRIGHTNESS,
        "labels": list(labels),
        "clusters": _typical(members, closeness),
        "directions": _directions(latents),
        "prior": None if prior is None else _prior(prior),
        # As text: numbers of JSON have 53 bits. The browser has no hash function to make them with.
        "roots": [str(purpose_root(seed, "prior")) for seed in range(SEEDS)],
    }
    (folder / "atlas.json").write_text(json.dumps(description))
    np.concatenate([places[:, 0], places[:, 1]]).astype("<f4").tofile(folder / "places.bin")
    np.concatenate([members.astype("<i4"), label_numbers.astype("<i4")]).tofile(
        folder / "groups.bin"
    )


def _write_runtime(folder: Path) -> None:
    folder.mkdir()
    shutil.copy(RUNTIME / SCRIPT, folder)
    shutil.copy(RUNTIME / "LICENSE", folder)
    (folder / WASM).write_bytes(lzma.decompress((RUNTIME / f"{WASM}.xz").read_bytes()))


def _block(rows: slice, pages: Pages, neighbours: Neighbours, clusters: Clusters) -> dict[str, Any]:
    keys, page_ids = pages.names(rows)
    labels, templates = pages.labels(rows)
    members, distances = clusters.of(keys)
    near = [[round(value, 5) for value in row] for row in neighbours.distances[rows].tolist()]
    return {
        "id": page_ids,
        "label": labels,
        "template": templates,
        "height": pages.heights[rows].tolist(),
        "error": [round(error, 6) for error in pages.errors[rows].tolist()],
        "cluster": members.tolist(),
        "neighbours": neighbours.rows[rows].tolist(),
        "distances": near,
        "distances_in_cluster": distances,
    }


def _write_block(
    folder: Path, number: int, rows: slice, pages: Pages, content: dict[str, Any]
) -> None:
    """Write one block: texts, latents, embeddings in half precision, and thumbnails."""
    pictures = pages.pictures(rows)
    ends = np.cumsum([len(picture) for picture in pictures]).tolist()
    text = json.dumps(content | {"ends": ends}, ensure_ascii=False, separators=(",", ":"))
    (folder / f"{number}.json").write_text(text, encoding="utf-8")
    (folder / f"{number}.png.bin").write_bytes(b"".join(pictures))
    pages.mu[rows].astype("<f4").tofile(folder / f"{number}.mu.bin")
    pages.vectors[rows].astype("<f2").tofile(folder / f"{number}.vectors.bin")


def _typical(members: np.ndarray, distances: np.ndarray) -> list[dict[str, Any]]:
    """Return name, size and most typical page, the nearest to the centre, of each cluster."""
    found = []
    for cluster in np.unique(members[members != NOISE]):
        rows = np.flatnonzero(members == cluster)
        typical = rows[np.argmin(np.nan_to_num(distances[rows], nan=np.inf))]
        name = cluster_names(np.array([cluster]))[0]
        found.append({"name": name, "size": len(rows), "typical": int(typical)})
    return found


def _directions(latents: np.ndarray) -> dict[str, Any]:
    """Return the mean of latents (N, D), their principal directions, and deviations along them."""
    table = latents.astype(np.float64)
    mean = table.mean(axis=0)
    variances, vectors = np.linalg.eigh(
        np.cov(table, rowvar=False, bias=True).reshape(2 * mean.shape)
    )
    order = np.argsort(variances)[::-1][:DIRECTIONS]
    axes = vectors[:, order].T
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    return {
        "mean": mean.tolist(),
        "axes": axes.tolist(),
        "deviations": np.sqrt(variances[order].clip(min=0)).tolist(),
    }


def _prior(prior: Prior) -> dict[str, Any]:
    """Return the values of a prior beside its graph."""
    return {
        "mean": prior.flow.mean.tolist(),
        "std": prior.flow.std.tolist(),
        "labels": [shown(label) for label in prior.labels],
        "heights": prior.heights.tolist(),
        "page_labels": prior.page_labels.tolist(),
        "max_height": prior.flow.max_height,
        "guidance": GUIDANCE,
    }
