"""Make the pictures of the README from a finished quickstart.

    ./launch/quickstart.sh
    python -m launch.readme_picture runs/default

Writes `docs/images/reconstructions.png` and `docs/images/samples.png`. Each records the version of
the project and the checksum of the experiment file, so that a test can tell when they are outdated.
"""

from __future__ import annotations

import argparse
import hashlib
import io
from importlib.metadata import version
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from shards import cli
from shards.atomic_files import write_atomic
from shards.errors import UserError
from vaetrain.artifacts.run_dir import RunDir
from vaetrain.config.command import experiment_path

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PICTURES = {"reconstructions.png": "reconstructions.png", "prior_samples.png": "samples.png"}


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="launch.readme_picture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of the quickstart")
    for path in make_pictures(parser.parse_args().run, IMAGES):
        print(path)
    return 0


def make_pictures(run: Path, folder: Path) -> list[Path]:
    """Copy the pictures of a finished run into a folder, with `provenance`; return their paths."""
    final = RunDir(run).final
    if not RunDir(run).is_finished:
        raise UserError(f"{run}: is not the directory of a finished run")
    info = PngInfo()
    for key, value in provenance().items():
        info.add_text(key, value)
    paths = []
    for source, target in PICTURES.items():
        content = io.BytesIO()
        with Image.open(final / source) as picture:
            picture.save(content, "PNG", pnginfo=info, optimize=True)
        write_atomic(folder / target, content.getvalue())
        paths.append(folder / target)
    return paths


def provenance() -> dict[str, str]:
    """Return the version of the project and the checksum of the quickstart's experiment."""
    experiment = experiment_path("default").read_bytes()
    return {"version": version("vaetrain"), "experiment": hashlib.sha256(experiment).hexdigest()}


if __name__ == "__main__":
    cli.run("launch.readme_picture", main)
