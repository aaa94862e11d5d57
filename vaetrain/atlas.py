"""Make an atlas of shards: a folder of static files that shows all pages in a browser.

    python -m vaetrain.atlas RUN --shards DIR [--out FOLDER] [--clusters FILE_OR_FOLDER]
        [--thumbnail PX] [--serve] [--port N]

The atlas has a map of all pages (colours by cluster, label, template, height or error; filters;
thumbnails; nearest pages of a page) and a page "Latent" that computes with the model in the
browser: a morph between two pages, a pad over two directions, samples of the prior, and the nearest
pages of a dropped layout or PNG. Nothing is loaded from elsewhere. Any server of static files can
show the folder; --serve is one, on this machine's loopback interface. A folder that is up to date
is not built again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli, optional_dependencies
from vaetrain.atlas_site.target import check_target
from vaetrain.cli import whole

MODULES = ("pyarrow", "umap", "onnx", "onnxscript", "onnxruntime")


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="vaetrain.atlas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--shards", type=cli.location, required=True, help="folder or address")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder to write; default RUN/atlas"
    )
    parser.add_argument(
        "--clusters",
        type=Path,
        metavar="FILE_OR_FOLDER",
        help="clusters.parquet of vaetrain.cluster, or its folder; default: no clusters",
    )
    parser.add_argument(
        "--thumbnail",
        type=whole(8, 512),
        default=64,
        metavar="PX",
        help="width of the pages' thumbnails; default 64",
    )
    parser.add_argument("--serve", action="store_true", help="then serve the folder")
    parser.add_argument(
        "--port", type=whole(0, 65535), default=8600, metavar="N", help="of --serve; default 8600"
    )
    arguments = parser.parse_args()
    out = arguments.out or arguments.run / "atlas"
    check_target(out)
    for module in MODULES:
        optional_dependencies.require(module, "atlas", "the atlas")
    atlas(arguments, out)
    return 0


def atlas(arguments: argparse.Namespace, out: Path) -> None:
    """Build the atlas, and serve it if requested."""
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    from vaetrain.atlas_site.build import build_atlas
    from vaetrain.atlas_site.server import serve

    build_atlas(arguments.run, arguments.shards, out, arguments.clusters, arguments.thumbnail)
    if arguments.serve:
        serve(out, arguments.port)


if __name__ == "__main__":
    cli.run("vaetrain.atlas", main)
