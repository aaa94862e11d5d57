"""Export a run's model as ONNX.

    python -m vaetrain.export RUN --onnx FILE [--int8 --calibrate DIR] [--separate]

Inputs are `images` (B, 1, H, W) float32 in [0, 1], H a multiple of 16 up to the model's max_height,
`heights` (B,) int64, and `eps`, the noise of the latent's shape: zeros decode from `mu`. A model
with a ladder takes its levels' noise too, `ladder_8`, `ladder_4` and `ladder_2`. Outputs are `mu`,
`logvar`, `z` and `reconstruction`. With --separate FILE becomes two, NAME-encoder.onnx and
NAME-decoder.onnx, the second from `z` and `heights`. With --int8 FILE is quantised: ranges are
measured on training pages of the shards in DIR, what it loses on their validation pages.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from shards import cli, errors, extras
from vaetrain.cli import output_file

if TYPE_CHECKING:
    from shards.reading.batch import Batch
    from vaetrain.inference.trained_model import TrainedModel

MOST_PAGES = 128  # of either split: to calibrate on, to measure
MOST_SSIM_LOST = 0.01


def main() -> int:
    """Run the command; the exit status."""
    parser = cli.Parser(
        prog="vaetrain.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument(
        "--onnx", type=output_file, required=True, metavar="FILE", help="ONNX file to write"
    )
    parser.add_argument("--separate", action="store_true", help="an encoder and a decoder file")
    parser.add_argument("--int8", action="store_true", help="eight-bit integers")
    parser.add_argument(
        "--calibrate",
        type=cli.location,
        metavar="DIR",
        help="folder of built shards, or address",
    )
    arguments = parser.parse_args()
    if arguments.int8 != (arguments.calibrate is not None):
        parser.error("--int8 and --calibrate go together")
    if arguments.int8 and arguments.separate:
        parser.error("--int8 goes without --separate")
    for module in ("onnx", "onnxscript", "onnxruntime"):
        extras.require(module, "export", "the export")
    # Written beside its place under another name: what a check refuses never gets its own.
    with tempfile.TemporaryDirectory(dir=arguments.onnx.parent, prefix=".export-") as folder:
        export(arguments, Path(folder))
    return 0


def export(arguments: argparse.Namespace, drafts: Path) -> None:
    """Write, check and name the files that were asked for."""
    # Imported only now: torch takes seconds, and `--help` must not wait for it.
    from vaetrain.inference import onnx_graph
    from vaetrain.inference.trained_model import TrainedModel

    trained = TrainedModel(arguments.run)
    model, data = trained.model.cpu(), trained.experiment.data
    if arguments.int8:
        # Before what takes long: the folder may not be one of shards.
        calibration, measured = split_pages(trained, arguments.calibrate)
    path, shape = arguments.onnx, (data.width, data.max_height)
    graphs = {path: onnx_graph.WholeGraph(model)}
    if arguments.separate:
        graphs = {
            path.with_name(f"{path.stem}-encoder.onnx"): onnx_graph.EncoderGraph(model),
            path.with_name(f"{path.stem}-decoder.onnx"): onnx_graph.DecoderGraph(model, *shape),
        }
    for target, graph in graphs.items():
        found = onnx_graph.write_graph(graph, drafts / target.name, *shape)
        print(f"{target}: differs from PyTorch by at most {found:.2g}")
    if arguments.int8:
        exact, small = drafts / path.name, drafts / f"int8-{path.name}"
        onnx_graph.quantise(model, exact, small, calibration)
        before, after = (onnx_graph.mean_ssim(model, file, measured) for file in (exact, small))
        print(f"{path}: int8, {exact.stat().st_size / small.stat().st_size:.2f} times smaller")
        count = sum(len(batch) for batch in measured)
        seen = "also calibrated on" if measured is calibration else "not calibrated on"
        print(f"SSIM of {count} pages {seen}: fp32 {before:.4f}, int8 {after:.4f}")
        if not before - after <= MOST_SSIM_LOST:
            raise errors.UserError(
                f"int8 loses {before - after:.4f} SSIM, more than {MOST_SSIM_LOST}; nothing written"
            )
        small.replace(exact)
    for target in graphs:
        (drafts / target.name).replace(target)


def split_pages(trained: TrainedModel, folder: str | Path) -> tuple[list[Batch], list[Batch]]:
    """Pages to calibrate on and others to measure; the same where shards have one split only.

    Raises UserError where they have no pages at all.
    """
    pages = trained.open_shards(folder)
    train, val = (
        [batch for batch in pages.pages(pages.select(split).thinned(MOST_PAGES)) if batch]
        for split in ("train", "val")
    )
    if not train and not val:
        raise errors.UserError(f"{folder}: there are no pages to calibrate on")
    return train or val, val or train


if __name__ == "__main__":
    cli.run("vaetrain.export", main)
