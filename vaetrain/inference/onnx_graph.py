"""ONNX graphs of a model: written, and checked against PyTorch in onnxruntime."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from shards.errors import UserError
from shards.reading.batch import Batch
from vaetrain.model.gaussian import reparameterized
from vaetrain.model.vae import VAE, Noise

TOLERANCE = 1e-4  # largest difference from PyTorch of any value of any output
CHECKED_BATCHES = (1, 3)  # batch sizes
OUTPUTS = ("mu", "logvar", "z", "reconstruction")


class WholeGraph(nn.Module):
    """Graph from pages to posterior, latent and reconstruction."""

    outputs = OUTPUTS

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Tensor, heights: Tensor, eps: Tensor, ladder: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, ...]:
        """Compute `VAE.forward` with the skip gate of an evaluation."""
        gate = self.model.skip_gate.expand(images.shape[0])
        output = self.model(images, heights, Noise(eps, ladder, gate))
        z = self.model.keep_latent(reparameterized(output.mu, output.logvar, eps), heights)
        return output.mu, output.logvar, z, output.reconstruction


class EncoderGraph(WholeGraph):
    """Graph from pages to posterior and latent."""

    outputs = OUTPUTS[:3]

    def forward(self, images: Tensor, heights: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        """Compute `VAE.posterior` and sample the latent with the noise `eps`."""
        mu, logvar, _ = self.model.posterior(images, heights)
        z = self.model.keep_latent(reparameterized(mu, logvar, eps), heights)
        return mu, logvar, z


class DecoderGraph(WholeGraph):
    """Graph from latents to pages, padded to the tallest page's next multiple of the stride."""

    outputs = OUTPUTS[3:]

    def __init__(self, model: VAE, width: int, max_height: int) -> None:
        super().__init__(model)
        self.width, self.max_rows = width, -(-max_height // model.stride)

    def forward(
        self, z: Tensor, heights: Tensor, ladder: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, ...]:
        """Compute `VAE.decode_padded`."""
        stride = self.model.stride
        if self.model.is_spatial:
            rows = z.shape[2]
        else:
            rows = ((heights.max() + stride - 1) // stride).item()
            torch._check(rows >= 1)
            torch._check(rows <= self.max_rows)
        return (self.model.decode_padded(z, heights, (stride * rows, self.width), ladder),)


def example_inputs(model: VAE, batch: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return random inputs of `WholeGraph` by name, with pages of different heights.

    The first page has `size[0]` rows.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    heights = torch.randint(1, size[0] + 1, (batch,), generator=generator)
    heights[0] = size[0]
    images = torch.rand(batch, 1, *size, generator=generator)
    images *= (torch.arange(size[0]) < heights[:, None])[:, None, :, None]
    named = {"images": images, "heights": heights, "eps": normal(*model.latent_shape(size))}
    for stride, shape in zip(model.ladder_strides, model.ladder_shapes(size), strict=True):
        named[f"ladder_{stride}"] = normal(*shape)
    return named


def graph_inputs(graph: WholeGraph, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the `example_inputs` that a graph takes, in its order."""
    ladder = {name: value for name, value in named.items() if name.startswith("ladder")}
    if isinstance(graph, EncoderGraph):
        return {name: named[name] for name in ("images", "heights", "eps")}
    if isinstance(graph, DecoderGraph):
        return {"z": named["eps"], "heights": named["heights"]} | ladder
    return named


def _call(named: dict[str, Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
    """Return keyword arguments of `forward`, in which the ladder is one tuple."""
    ladder = tuple(value for name, value in named.items() if name.startswith("ladder"))
    plain = {name: value for name, value in named.items() if not name.startswith("ladder")}
    return plain | ({"ladder": ladder} if ladder else {})


def write_graph(graph: WholeGraph, path: Path, width: int, max_height: int) -> float:
    """Write a graph, check it in onnxruntime and return the largest difference from PyTorch.

    Raises UserError if the difference is above `TOLERANCE`.
    """
    graph.eval()
    stride = graph.model.stride
    max_rows = -(-max_height // stride)  # of the coarsest feature map
    size = (stride * max(2, max_rows // 2), width)
    named = graph_inputs(graph, example_inputs(graph.model, 2, size))
    batch, rows = Dim("batch"), Dim("rows", min=1, max=max_rows)

    def dynamic(name: str, value: Tensor) -> dict:
        if value.ndim != 4:
            return {0: batch}
        if name.startswith("ladder_"):
            scale = stride // int(name.removeprefix("ladder_"))
        else:
            scale = {"images": stride, "eps": 1, "z": 1}[name]
        return {0: batch, 2: scale * rows}

    shapes = _call({name: dynamic(name, value) for name, value in named.items()})
    export_graph(graph, path, _call(named), list(named), shapes)
    heights = sorted({stride, stride * (max_rows // 2 or 1), stride * max_rows})
    sizes = [(count, (height, width)) for count in CHECKED_BATCHES for height in heights]
    difference = largest_difference(graph, path, sizes)
    if not difference <= TOLERANCE:
        raise UserError(
            f"onnxruntime differs from PyTorch by {difference:.2g}, more than {TOLERANCE:g}; "
            "nothing written"
        )
    return difference


def export_graph(
    graph: nn.Module, path: Path, inputs: dict[str, Any], names: list[str], shapes: dict | None
) -> None:
    """Write a module to an ONNX file; its attribute `outputs` names what it returns.

    Args:
        inputs: keyword arguments of an example.
        names: of the inputs in the file.
        shapes: dynamic axes of each input, as of `torch.onnx.export`.
    """
    with warnings.catch_warnings():
        # It warns that the inputs' sizes have one name in common, as they should.
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        program = torch.onnx.export(
            graph,
            kwargs=inputs,
            dynamic_shapes=shapes,
            input_names=names,
            output_names=list(graph.outputs),
            dynamo=True,
            verbose=False,
        )
        program.save(path, external_data=False)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a file in onnxruntime on the CPU, with as many threads as PyTorch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def largest_difference(
    graph: WholeGraph, path: Path, sizes: Iterable[tuple[int, tuple[int, int]]]
) -> float:
    """Return the largest difference of any output between a file and PyTorch.

    Args:
        sizes: (batch size, (H, W)) of the inputs that are compared.
    """
    session, largest = open_session(path), 0.0
    for batch, size in sizes:
        named = graph_inputs(graph, example_inputs(graph.model, batch, size))
        outputs = session.run(None, {name: value.numpy() for name, value in named.items()})
        for expected, output in zip(graph(**_call(named)), outputs, strict=True):
            largest = max(largest, float((expected - torch.from_numpy(output)).abs().max()))
    return largest


def page_inputs(model: VAE, batch: Batch) -> dict[str, np.ndarray]:
    """Return a file's inputs to reconstruct pages from their `mu`: the noise is zero."""
    named = example_inputs(model, len(batch), batch.size)
    zeros = {name: torch.zeros_like(value) for name, value in named.items()}
    inputs = zeros | {"images": batch.images(), "heights": batch.heights}
    return {name: value.numpy() for name, value in inputs.items()}
