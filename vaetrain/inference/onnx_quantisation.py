"""Static int8 quantisation of an exported model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from shards.errors import UserError
from shards.reading.batch import Batch
from vaetrain.inference.onnx_graph import open_session, page_inputs
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.losses import ssim
from vaetrain.model.vae import VAE

MAX_PAGES = 128  # of the training split for calibration, and of the validation split for SSIM


class CalibrationPages(CalibrationDataReader):
    """Batches of pages for onnxruntime's calibration."""

    def __init__(self, model: VAE, batches: Sequence[Batch]) -> None:
        self.inputs = (page_inputs(model, batch) for batch in batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the inputs of the next batch; None after the last."""
        return next(self.inputs, None)


def split_pages(trained: TrainedModel, folder: str | Path) -> tuple[list[Batch], list[Batch]]:
    """Return pages for calibration and pages for measuring SSIM.

    They are training and validation pages; both are the same pages if the shards have one split
    only. Raises UserError if the shards have no pages.
    """
    data = trained.open_shards(folder)
    train, val = (
        [batch for batch in data.pages(data.select(split).thinned(MAX_PAGES)) if batch]
        for split in ("train", "val")
    )
    if not train and not val:
        raise UserError(f"{folder}: has no pages for calibration; name shards with pages")
    return train or val, val or train


def quantise(model: VAE, source: Path, target: Path, batches: Sequence[Batch]) -> None:
    """Quantise convolutions and linear layers statically (QDQ, one scale per output channel).

    Activations are uint8 in the ranges that `batches` show, weights are int8.
    """
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
    """Return the mean SSIM of a file's reconstructions from `mu`."""
    session, values = open_session(path), []
    for batch in batches:
        (page,) = session.run(["reconstruction"], page_inputs(model, batch))
        page = torch.from_numpy(page).clamp(0, 1)
        values.append(ssim.ssim(page, batch.images(), batch.heights))
    return torch.cat(values).mean().item()
