"""Export of a trained model as ONNX files, checked before they get their names."""

from __future__ import annotations

import tempfile
from pathlib import Path

from shards.errors import UserError
from shards.reading.batch import Batch
from vaetrain.inference import onnx_graph, onnx_quantisation
from vaetrain.inference.trained_model import TrainedModel

MAX_SSIM_LOSS = 0.01  # of int8 against fp32


def export_onnx(trained: TrainedModel, path: Path, *, separate: bool) -> None:
    """Write a model as one file, or as NAME-encoder and NAME-decoder.

    Raises UserError if a file differs from PyTorch; then none is written.
    """
    model, data = trained.model.cpu(), trained.experiment.data
    shape = (data.width, data.max_height)
    graphs = {path: onnx_graph.WholeGraph(model)}
    if separate:
        graphs = {
            path.with_name(f"{path.stem}-encoder.onnx"): onnx_graph.EncoderGraph(model),
            path.with_name(f"{path.stem}-decoder.onnx"): onnx_graph.DecoderGraph(model, *shape),
        }
    with drafts_beside(path) as drafts:
        for target, graph in graphs.items():
            difference = onnx_graph.write_graph(graph, Path(drafts, target.name), *shape)
            print(f"{target}: differs from PyTorch by at most {difference:.2g}")
        for target in graphs:
            Path(drafts, target.name).replace(target)


def export_int8(trained: TrainedModel, path: Path, calibration: str | Path) -> None:
    """Write a model as one file in int8, calibrated on these shards.

    Raises UserError if the fp32 file differs from PyTorch, or if int8 loses more than
    `MAX_SSIM_LOSS`; then nothing is written.
    """
    model, data = trained.model.cpu(), trained.experiment.data
    # Opened before the export, which takes long: the folder may have no shards.
    calibration_pages, ssim_pages = onnx_quantisation.split_pages(trained, calibration)
    with drafts_beside(path) as drafts:
        fp32, int8 = Path(drafts, path.name), Path(drafts, f"int8-{path.name}")
        graph = onnx_graph.WholeGraph(model)
        difference = onnx_graph.write_graph(graph, fp32, data.width, data.max_height)
        print(f"{path}: differs from PyTorch by at most {difference:.2g}")
        onnx_quantisation.quantise(model, fp32, int8, calibration_pages)
        check_int8(trained, path, (fp32, int8), ssim_pages, ssim_pages is calibration_pages)
        int8.replace(path)


def check_int8(
    trained: TrainedModel,
    path: Path,
    files: tuple[Path, Path],
    pages: list[Batch],
    calibrated: bool,
) -> None:
    """Compare size and SSIM of the fp32 and the int8 file; raises UserError for a loss of SSIM.

    Args:
        path: the final name, for messages.
        files: the fp32 and the int8 file.
        pages: pages to measure SSIM on.
        calibrated: whether int8 was calibrated on the same pages.
    """
    fp32, int8 = files
    before, after = (onnx_quantisation.mean_ssim(trained.model, file, pages) for file in files)
    print(f"{path}: int8, {fp32.stat().st_size / int8.stat().st_size:.2f} times smaller")
    count = sum(len(batch) for batch in pages)
    usage = "also calibrated on" if calibrated else "not calibrated on"
    print(f"SSIM of {count} pages {usage}: fp32 {before:.4f}, int8 {after:.4f}")
    if not before - after <= MAX_SSIM_LOSS:
        raise UserError(
            f"int8 loses {before - after:.4f} SSIM, more than {MAX_SSIM_LOSS}; nothing written"
        )


def drafts_beside(path: Path) -> tempfile.TemporaryDirectory:
    """Return a folder beside a file; a file that fails a check there never gets its name."""
    return tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-")
