"""Files of the page "Latent": the models as ONNX, and latents and embeddings of the pages."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from shards.randomness import purpose_root
from vaetrain.atlas_site.block_files import BLOCK
from vaetrain.atlas_site.graphs import write_embedder, write_velocity
from vaetrain.atlas_site.pages import Pages, shown
from vaetrain.inference.onnx_graph import DecoderGraph, write_graph
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.model.embedding import EmbeddingSpace
from vaetrain.page_pictures import BRIGHTNESS
from vaetrain.prior.prior import GUIDANCE, Prior

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


def write_latent(folder: Path, trained: TrainedModel, space: EmbeddingSpace, pages: Pages) -> None:
    """Write the models, the runtime and the pages' vectors to an existing folder.

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
    for number, rows in enumerate(pages.blocks(BLOCK)):
        pages.mu[rows].astype("<f4").tofile(blocks / f"{number}.mu.bin")
        pages.vectors[rows].astype("<f2").tofile(blocks / f"{number}.vectors.bin")
    latents = np.array(pages.mu[:: max(1, len(pages) // MOST_FITTED)])
    description = {
        "dimensions": pages.mu.shape[1],
        "embedding": pages.vectors.shape[1],
        "width": data.width,
        "max_height": data.max_height,
        "stride": model.stride,
        "rows": model.size[0],
        "brightness": BRIGHTNESS,
        "directions": _directions(latents),
        "prior": None if prior is None else _prior(prior),
        # As text: numbers of JSON have 53 bits. The browser has no hash function to make them with.
        "roots": [str(purpose_root(seed, "prior")) for seed in range(SEEDS)],
    }
    (folder / "latent.json").write_text(json.dumps(description))


def _write_runtime(folder: Path) -> None:
    folder.mkdir()
    shutil.copy(RUNTIME / SCRIPT, folder)
    shutil.copy(RUNTIME / "LICENSE", folder)
    (folder / WASM).write_bytes(lzma.decompress((RUNTIME / f"{WASM}.xz").read_bytes()))


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
