"""Size, latency and quality of a trained model in fp32, bf16 and int8.

    python -m benchmarks.precision RUN --shards DIR --calibrate DIR [--quick] [--out DIR]

Runs the averaged model of a run in PyTorch (fp32, bf16, linear layers in int8) and in onnxruntime
(fp32, int8), on one core. Quality is measured on all pages of --shards. The ranges of onnxruntime's
int8 are calibrated on training pages of --calibrate. Writes precision.json and precision.png.
"""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.support import harness, report
from shards import cli, optional_dependencies
from shards.reading.batch import Batch
from vaetrain.evaluation.latents import in_posterior_stds
from vaetrain.evaluation.retrieval import (
    RETRIEVED,
    PageLabels,
    nearest_of_other_templates,
    retrieval_precision,
)
from vaetrain.inference import onnx_graph
from vaetrain.inference.onnx_quantisation import quantise, split_pages
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.losses import ssim
from vaetrain.model.vae import VAE

EXACT = "PyTorch, fp32"
PACKAGES = ("onnxruntime", "onnx", "torchao")

Run = Callable[[Batch], tuple[Tensor, Tensor, Tensor]]
"""A function from a batch to `mu`, `logvar` and the pages decoded from `mu`."""


@dataclass(frozen=True)
class Sizes:
    """Batches to measure quality on (None: all), counted rounds, warm-up rounds, pages a round."""

    batches: int | None
    rounds: int
    warmup: int
    pages: int


FULL = Sizes(batches=None, rounds=15, warmup=2, pages=8)
QUICK = Sizes(batches=1, rounds=2, warmup=1, pages=2)


@dataclass(frozen=True)
class Variant:
    """A model in one precision: the bytes of its file, and the function that runs it."""

    bytes: int
    run: Run


def in_pytorch(model: VAE, dtype: torch.dtype = torch.float32) -> Variant:
    """Return a model run by PyTorch; bf16 has rounded weights and autocast."""
    file = io.BytesIO()
    if dtype == torch.float32:
        torch.save(model.state_dict(), file)
    else:
        rounded = copy.deepcopy(model).to(dtype)
        torch.save(rounded.state_dict(), file)
        model = rounded.float()

    @torch.no_grad()
    def run(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            posterior = model.posterior(batch.images(), batch.heights)
            output = model.reconstruct(posterior, batch.heights, batch.size)
        return output.mu.float(), output.logvar.float(), output.reconstruction.float()

    return Variant(file.tell(), run)


def in_onnxruntime(model: VAE, path: Path) -> Variant:
    """Return an ONNX file run by onnxruntime."""
    runtime = onnx_graph.open_session(path)

    def run(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        outputs = ["mu", "logvar", "reconstruction"]
        return tuple(
            map(torch.from_numpy, runtime.run(outputs, onnx_graph.page_inputs(model, batch)))
        )

    return Variant(path.stat().st_size, run)


def with_int8_layers(model: VAE) -> VAE:
    """Return a copy of the model with its linear layers in torchao's dynamic int8.

    They have most of the weights of a model with a vector latent. Weights have a scale for each
    output, activations one for each page, computed at run time. Convolutions stay in fp32, and so
    do the small linear layers whose weights a module reads itself (`reads_inner_weights`).
    """
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = copy.deepcopy(model)
    read = {
        id(layer)
        for module in model.modules()
        if getattr(module, "reads_inner_weights", False)
        for layer in module.modules()
    }

    def is_called(layer: nn.Module, name: str) -> bool:
        return isinstance(layer, nn.Linear) and id(layer) not in read

    quantize_(model, Int8DynamicActivationInt8WeightConfig(), filter_fn=is_called)
    return model


def variants_of(trained: TrainedModel, pages: Sequence[Batch], drafts: Path) -> dict[str, Variant]:
    """Return the model in all precisions by name; int8 is calibrated on `pages`."""
    model, data = trained.model.cpu(), trained.experiment.data
    exact, small = drafts / "fp32.onnx", drafts / "int8.onnx"
    onnx_graph.write_graph(onnx_graph.WholeGraph(model), exact, data.width, data.max_height)
    quantise(model, exact, small, pages)
    return {
        EXACT: in_pytorch(model),
        "PyTorch, bf16": in_pytorch(model, torch.bfloat16),
        "PyTorch, int8 linear layers": in_pytorch(with_int8_layers(model)),
        "onnxruntime, fp32": in_onnxruntime(model, exact),
        "onnxruntime, int8": in_onnxruntime(model, small),
    }


def quality(run: Run, batches: Sequence[Batch], names: PageLabels | None) -> dict[str, float]:
    """Compute the mean SSIM over pages, and precision@10 of a search by latents.

    The search is by raw `mu`, and by `mu` in posterior standard deviations.

    Args:
        names: labels and templates of the batches' pages in their order; None: skip the search.
    """
    similar, latents = [], []
    for batch in batches:
        mu, logvar, page = run(batch)
        values = ssim.ssim(page.clamp(0, 1), batch.images(), batch.heights)
        similar.append(values[batch.heights >= ssim.WINDOW])
        latents.append(torch.stack([mu.flatten(1), logvar.flatten(1)]))
    metrics = {"SSIM": round(torch.cat(similar).mean().item(), 4)}
    if names is not None:
        mu, logvar = torch.cat(latents, dim=1)
        known = names.labels >= 0
        for name, vectors in {"raw": mu, "deviations": in_posterior_stds(mu, logvar)}.items():
            neighbours = nearest_of_other_templates(
                vectors[known], names.templates[known], RETRIEVED
            )
            precision = retrieval_precision(neighbours, names.labels[known])
            metrics[f"precision@10 ({name})"] = round(precision, 4)
    return metrics


def measure(arguments: Any, sizes: Sizes, drafts: Path) -> dict[str, Any]:
    """Run the whole benchmark and return its record."""
    trained = TrainedModel(arguments.run)
    calibration, _ = split_pages(trained, arguments.calibrate)
    data = trained.open_shards(arguments.shards)
    batches = [batch for batch in data.pages(data.select("all")) if batch is not None]
    batches = batches[: sizes.batches]
    variants = variants_of(trained, calibration, drafts)
    names = None
    if not (arguments.quick or trained.model.is_spatial):
        names = PageLabels.from_index(data.index, torch.cat([batch.ids for batch in batches]))
    ids = np.linspace(0, len(data.index) - 1, sizes.pages).round().astype(np.int64)
    single = [
        data.collator.batch(ids[n : n + 1], np.zeros(1, np.int64), training=False)
        for n in range(len(ids))
    ]
    cases = [
        harness.Case(name, lambda run=variant.run: sum(len(run(page)[0]) for page in single))
        for name, variant in variants.items()
    ]
    timing = {"rounds": sizes.rounds, "warmup": sizes.warmup, "seed": arguments.seed}
    rates = harness.interleave(cases, device=torch.device("cpu"), **timing)
    group = f"{data.config.width} px, one page at a time"
    settings = {**asdict(sizes), **timing, "device": "cpu", "measured": sum(map(len, batches))}
    results = []
    for name, variant in variants.items():
        notes = {"MB": round(variant.bytes / 1e6, 2), **quality(variant.run, batches, names)}
        results.append(report.result(group, name, "pages/s", rates[name], notes))
    return report.record(
        "precision",
        quick=arguments.quick,
        settings=settings,
        packages=PACKAGES,
        results=results,
        comparisons=[
            report.compare(results, group, name, EXACT, None) for name in variants if name != EXACT
        ],
    )


def main() -> int:
    """Run the command and return the exit status."""
    parser = harness.parser("precision", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument(
        "--shards", type=cli.location, required=True, metavar="DIR", help="pages to measure on"
    )
    parser.add_argument(
        "--calibrate", type=cli.location, required=True, metavar="DIR", help="pages to calibrate on"
    )
    arguments = parser.parse_args()
    for module in ("onnx", "onnxscript", "onnxruntime"):
        optional_dependencies.require(module, "export", "this benchmark")
    optional_dependencies.require("torchao", "bench", "this benchmark")
    harness.pin_to_one_core()
    with tempfile.TemporaryDirectory(prefix="precision-") as drafts:
        record = measure(arguments, QUICK if arguments.quick else FULL, Path(drafts))
    report.publish(record, arguments.out)
    return 0


if __name__ == "__main__":
    cli.run("benchmarks.precision", main)
