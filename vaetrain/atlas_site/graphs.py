"""ONNX graphs that only the atlas needs, checked against PyTorch before they are used."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from shards.errors import UserError
from vaetrain.inference.onnx_graph import CHECKED_BATCHES, TOLERANCE, export_graph, open_session
from vaetrain.model.embedding import EmbeddingSpace
from vaetrain.model.vae import VAE
from vaetrain.prior.flow import Flow


class EmbedderGraph(nn.Module):
    """Graph from one page, padded to the model's greatest height, to `mu` and its embedding."""

    outputs = ("mu", "embedding")

    def __init__(self, model: VAE, space: EmbeddingSpace) -> None:
        super().__init__()
        self.model = model
        self.space = space

    def forward(self, images: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
        """Compute `VAE.encode` and `EmbeddingSpace.vectors`."""
        mu, _, levels = self.model.posterior(images, heights)
        mu = self.model.embed(mu, heights)
        structure = self.model.structure(images, heights, levels)
        return mu, self.space.vectors(mu, structure).float()


class VelocityGraph(nn.Module):
    """Graph of a prior's velocity, see `Flow.forward`."""

    outputs = ("velocity",)

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, time: Tensor, heights: Tensor, labels: Tensor) -> tuple[Tensor]:
        """Compute `Flow.forward`."""
        return (self.flow(x, time, heights, labels),)


def write_embedder(model: VAE, space: EmbeddingSpace, path: Path) -> None:
    """Write the graph from pages to embeddings; raises UserError if it differs from PyTorch."""
    rows, width = model.size
    generator = torch.Generator().manual_seed(0)
    pages = []
    for height in sorted({rows, rows // 2, 1}, reverse=True):
        image = torch.rand(1, 1, rows, width, generator=generator) / 2
        image[:, :, height:] = 0
        pages.append({"images": image, "heights": torch.tensor([height])})
    _write(EmbedderGraph(model, space), path, pages, None)


def write_velocity(flow: Flow, path: Path) -> None:
    """Write the graph of a prior's velocity; raises UserError if it differs from PyTorch."""
    generator = torch.Generator().manual_seed(0)
    examples = []
    for count in (2, *CHECKED_BATCHES):
        examples.append(
            {
                "x": torch.randn(count, len(flow.mean), generator=generator),
                "time": torch.rand(count, generator=generator),
                "heights": torch.randint(1, flow.max_height + 1, (count,), generator=generator),
                "labels": torch.randint(0, flow.labels + 1, (count,), generator=generator),
            }
        )
    batch = Dim("batch")
    # A copy: the exporter replaces the buffers of the module while it traces it.
    graph = VelocityGraph(copy.deepcopy(flow))
    _write(graph, path, examples, {name: {0: batch} for name in examples[0]})


@torch.no_grad()
def _write(
    graph: nn.Module, path: Path, examples: list[dict[str, Tensor]], shapes: dict | None
) -> None:
    """Write a graph and compare it with PyTorch on all examples."""
    graph.eval()
    # It logs each operation that it cannot compute in advance.
    logging.getLogger("onnxscript.optimizer._constant_folding").setLevel(logging.ERROR)
    export_graph(graph, path, examples[0], list(examples[0]), shapes)
    session, largest = open_session(path), 0.0
    for named in examples:
        outputs = session.run(None, {name: value.numpy() for name, value in named.items()})
        for expected, output in zip(graph(**named), outputs, strict=True):
            largest = max(largest, float((expected - torch.from_numpy(output)).abs().max()))
    if not largest <= TOLERANCE:
        raise UserError(
            f"{path.name}: onnxruntime differs from PyTorch by {largest:.2g}, more than "
            f"{TOLERANCE:g}; no atlas is written"
        )
