"""A model as ONNX: the graphs, onnxruntime's answers beside PyTorch's, and eight-bit integers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from torch.export import Dim

from shards.errors import UserError
from shards.reading.batch import Batch
from vaetrain.losses import ssim
from vaetrain.model.gaussian import reparameterized
from vaetrain.model.sizes import STRIDES
from vaetrain.model.skips import LADDER_CHANNELS
from vaetrain.model.vae import VAE, Noise

TOLERANCE = 1e-4  # between onnxruntime and PyTorch, any value of any output
CHECKED_BATCHES = (1, 3)
LADDER_STRIDES = STRIDES[-2::-1]
OUTPUTS = ("mu", "logvar", "z", "reconstruction")


class WholeGraph(nn.Module):
    """CalibrationPages to posterior, latent and reconstruction."""

    outputs = OUTPUTS

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Tensor, heights: Tensor, eps: Tensor, ladder: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, ...]:
        """See `VAE.forward`; skips are open as far as in an evaluation."""
        gate = self.model.skip_gate.expand(images.shape[0])
        output = self.model(images, heights, Noise(eps, ladder, gate))
        z = self.model.keep_latent(reparameterized(output.mu, output.logvar, eps), heights)
        return output.mu, output.logvar, z, output.reconstruction


class EncoderGraph(WholeGraph):
    """CalibrationPages to posterior and latent."""

    outputs = OUTPUTS[:3]

    def forward(self, images: Tensor, heights: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        """See `VAE.encode`."""
        mu, logvar = self.model.encode(images, heights)
        z = self.model.keep_latent(reparameterized(mu, logvar, eps), heights)
        return mu, logvar, z


class DecoderGraph(WholeGraph):
    """Latents alone to pages, padded to the tallest's multiple of the stride."""

    outputs = OUTPUTS[3:]

    def __init__(self, model: VAE, width: int, max_height: int) -> None:
        super().__init__(model)
        self.width, self.most = width, -(-max_height // model.stride)

    def forward(
        self, z: Tensor, heights: Tensor, ladder: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, ...]:
        """See `VAE.decode`."""
        stride = self.model.stride
        if self.model.is_spatial:
            rows = z.shape[2]
        else:
            rows = ((heights.max() + stride - 1) // stride).item()
            torch._check(rows >= 1)
            torch._check(rows <= self.most)
        return (self.model.decode(z, heights, (stride * rows, self.width), ladder),)


def example_inputs(model: VAE, batch: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Inputs of `WholeGraph` by name: pages of different heights, the first `size[0]` rows tall."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    heights = torch.randint(1, size[0] + 1, (batch,), generator=generator)
    heights[0] = size[0]
    images = torch.rand(batch, 1, *size, generator=generator)
    images *= (torch.arange(size[0]) < heights[:, None])[:, None, :, None]
    named = {"images": images, "heights": heights, "eps": normal(*model.latent_shape(size))}
    for stride in LADDER_STRIDES if model.ladder_levels else ():
        named[f"ladder_{stride}"] = normal(LADDER_CHANNELS, size[0] // stride, size[1] // stride)
    return named


def graph_inputs(graph: WholeGraph, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of `example` that a graph takes, in its order."""
    ladder = {name: value for name, value in named.items() if name.startswith("ladder")}
    if isinstance(graph, EncoderGraph):
        return {name: named[name] for name in ("images", "heights", "eps")}
    if isinstance(graph, DecoderGraph):
        return {"z": named["eps"], "heights": named["heights"]} | ladder
    return named


def _call(named: dict[str, Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
    ladder = tuple(value for name, value in named.items() if name.startswith("ladder"))
    plain = {name: value for name, value in named.items() if not name.startswith("ladder")}
    return plain | ({"ladder": ladder} if ladder else {})


def write_graph(graph: WholeGraph, path: Path, width: int, max_height: int) -> float:
    """Write a graph and check it; the largest difference from PyTorch.

    Raises UserError where that is above `TOLERANCE`.
    """
    graph.eval()
    stride = graph.model.stride
    most = -(-max_height // stride)
    named = graph_inputs(graph, example_inputs(graph.model, 2, (stride * max(2, most // 2), width)))
    batch, rows = Dim("batch"), Dim("rows", min=1, max=most)

    def dynamic(name: str, value: Tensor) -> dict:
        tall = {"images": stride, "eps": 1, "z": 1}.get(name) or stride // int(
            name.removeprefix("ladder_") if name.startswith("ladder_") else stride
        )
        return {0: batch, 2: tall * rows} if value.ndim == 4 else {0: batch}

    shapes = _call({name: dynamic(name, value) for name, value in named.items()})
    program = torch.onnx.export(
        graph,
        kwargs=_call(named),
        dynamic_shapes=shapes,
        input_names=list(named),
        output_names=list(graph.outputs),
        dynamo=True,
        verbose=False,
    )
    program.save(path, external_data=False)
    heights = sorted({stride, stride * (most // 2 or 1), stride * most})
    found = largest_difference(
        graph, path, [(n, (h, width)) for n in CHECKED_BATCHES for h in heights]
    )
    if not found <= TOLERANCE:
        raise UserError(f"onnxruntime differs from PyTorch by {found:.2g}, over {TOLERANCE:g}")
    return found


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """onnxruntime on the CPU, with as many threads as PyTorch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def largest_difference(
    graph: WholeGraph, path: Path, sizes: Iterable[tuple[int, tuple[int, int]]]
) -> float:
    """The largest difference of any output between a file and PyTorch, over (batch, (H, W))."""
    runtime, largest = open_session(path), 0.0
    for batch, size in sizes:
        named = graph_inputs(graph, example_inputs(graph.model, batch, size))
        theirs = runtime.run(None, {name: value.numpy() for name, value in named.items()})
        for ours, other in zip(graph(**_call(named)), theirs, strict=True):
            largest = max(largest, float((ours - torch.from_numpy(other)).abs().max()))
    return largest


def page_inputs(model: VAE, batch: Batch) -> dict[str, np.ndarray]:
    """What a file takes to reconstruct pages from their `mu`: no noise."""
    named = example_inputs(model, len(batch), batch.size)
    zeros = {name: torch.zeros_like(value) for name, value in named.items()}
    inputs = zeros | {"images": batch.images(), "heights": batch.heights}
    return {name: value.numpy() for name, value in inputs.items()}


class CalibrationPages(CalibrationDataReader):
    """Batches of pages as onnxruntime's calibration asks for them."""

    def __init__(self, model: VAE, batches: Sequence[Batch]) -> None:
        self.inputs = (page_inputs(model, batch) for batch in batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None after the last."""
        return next(self.inputs, None)


def quantise(model: VAE, source: Path, target: Path, batches: Sequence[Batch]) -> None:
    """Static quantisation of convolutions and linear layers (QDQ, a scale per output channel)."""
    prepared = target.with_name(f"prepared-{target.name}")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        target,
        CalibrationPages(model, batches),
        op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def mean_ssim(model: VAE, path: Path, batches: Sequence[Batch]) -> float:
    """Mean SSIM over pages of what a file makes of them from their `mu`."""
    runtime, values = open_session(path), []
    for batch in batches:
        (page,) = runtime.run(["reconstruction"], page_inputs(model, batch))
        page = torch.from_numpy(page).clamp(0, 1)
        values.append(ssim.ssim(page, batch.images(), batch.heights))
    return torch.cat(values).mean().item()
