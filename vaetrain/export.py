"""Export a run's model as ONNX.

    python -m vaetrain.export RUN --onnx FILE [--int8 --calibrate DIR] [--separate]

Inputs are `images` (B, 1, H, W) float32 in [0, 1], with H a multiple of 16 up to the model's
max_height, `heights` (B,) int64, and `eps`, noise of the latent's shape; zeros decode from `mu`. A
model with a ladder also takes the noise of its levels, `ladder_16`, ..., `ladder_2`.
Outputs are `mu`, `logvar`, `z` and `reconstruction`. With --separate two files are written,
NAME-encoder.onnx, and NAME-decoder.onnx from `z` and `heights`. With --int8 FILE is quantised: it
is calibrated on training pages of the shards in DIR, and its loss of SSIM is measured on their
validation pages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli, optional_dependencies
from vaetrain.cli import output_file


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="vaetrain.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument(
        "--onnx", type=output_file, required=True, metavar="FILE", help="ONNX file to write"
    )
    parser.add_argument(
        "--separate", action="store_true", help="write an encoder and a decoder file"
    )
    parser.add_argument("--int8", action="store_true", help="quantise to int8")
    parser.add_argument(
        "--calibrate",
        type=cli.location,
        metavar="DIR",
        help="shards that int8 is calibrated on: folder or address",
    )
    arguments = parser.parse_args()
    if arguments.int8 != (arguments.calibrate is not None):
        parser.error("--int8 and --calibrate go together")
    if arguments.int8 and arguments.separate:
        parser.error("--int8 and --separate cannot be combined")
    for module in ("onnx", "onnxscript", "onnxruntime"):
        optional_dependencies.require(module, "export", "the export")
    export(arguments)
    return 0


def export(arguments: argparse.Namespace) -> None:
    """Write, check and name the requested files."""
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    from vaetrain.inference.onnx_export import export_int8, export_onnx
    from vaetrain.inference.trained_model import TrainedModel

    trained = TrainedModel(arguments.run)
    if arguments.int8:
        export_int8(trained, arguments.onnx, arguments.calibrate)
    else:
        export_onnx(trained, arguments.onnx, separate=arguments.separate)
    trained.report_threads()


if __name__ == "__main__":
    cli.run("vaetrain.export", main)
